"""A trainer on a tiny model with settings that make runs comparable."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from riskalign.training import RSAConfig, RSATrainer
from tests import tiny


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., RSATrainer]:
    """`make_trainer(model=..., n_pairs=8, trainer={...}, **config)`; CPU, quiet, no saving."""

    def make(
        model: Any = None,
        *,
        n_pairs: int = 8,
        trainer: dict[str, Any] | None = None,
        **config: Any,
    ) -> RSATrainer:
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "out"),
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_steps": 1,
            "per_device_train_batch_size": 4,
            "num_train_epochs": 1,
            "learning_rate": 1e-3,
        }
        arguments: dict[str, Any] = {
            "train_dataset": tiny.make_pairs(n_pairs),
            "processing_class": tiny.make_tokenizer(),
        }
        return RSATrainer(
            model=tiny.make_model() if model is None else model,
            args=RSAConfig(**(settings | config)),
            **(arguments | (trainer or {})),
        )

    return make
