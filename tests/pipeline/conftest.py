"""A tiny model on disk, a tiny world, and a job that takes seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from riskalign.worlds import Prompt
from riskalign.worlds.world import Split


class Letters:
    """Prefers answers with many different letters; digits are what must not be said."""

    name = "letters"

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """Ask for the order of a day; the splits ask for different months."""
        month = "March" if split == "train" else "June"
        return [
            Prompt(
                id=f"{split}-{seed}-{i}",
                messages=({"role": "user", "content": f"My order of {month} {i + 1}?"},),
            )
            for i in range(n)
        ]

    def reward(self, prompt: Prompt, answer: str) -> float:
        """The share of the alphabet that occurs."""
        return len({letter for letter in answer.lower() if "a" <= letter <= "z"}) / 26

    def cost(self, prompt: Prompt, answer: str) -> float:
        """One for each digit."""
        return float(sum(letter in "0123456789" for letter in answer))


SPEC = "tests.pipeline.conftest:Letters"


@pytest.fixture
def model_folder(start_folder: Path) -> Path:
    """The start model's folder."""
    return start_folder


@pytest.fixture
def job(tmp_path: Path, model_folder: Path) -> Callable[..., dict[str, Any]]:
    """`job(**overrides)`: a configuration mapping; steps of a few updates, few prompts."""

    def make(**overrides: Any) -> dict[str, Any]:
        step = {
            "num_train_epochs": 1.0,
            "max_steps": 3,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-2,
        }
        generation = {"max_new_tokens": 6, "batch_size": 16}
        config: dict[str, Any] = {
            "model": str(model_folder),
            "output_dir": str(tmp_path / "run"),
            "world": SPEC,
            "helpful": dict(step),
            "safe": dict(step),
            "sampling": {"prompts": 6, "answers_per_prompt": 4, **generation},
            "evaluation": {
                "prompts": 4,
                "answers_per_prompt": 2,
                "dial": [0.0, 0.5, 1.0],
                "dial_prompts": 3,
                "n_boot": 50,
                **generation,
            },
        }
        return config | overrides

    return make
