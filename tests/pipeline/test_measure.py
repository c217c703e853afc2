"""Answers of models and of the dial, scored, kept on disk and compared."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from riskalign.evaluation import ScoredAnswer
from riskalign.models.backends import BACKENDS
from riskalign.models.sampling import sample
from riskalign.models.vllm_server import VllmConfig
from riskalign.pipeline.measure import measure, read_scored, write_scored
from riskalign.pipeline.settings import EvaluationConfig
from tests import tiny
from tests.pipeline.conftest import Letters

EVALUATION = EvaluationConfig(
    prompts=3, answers_per_prompt=2, max_new_tokens=5, batch_size=4, n_boot=20, examples=2
)
WORLD = Letters()
PROMPTS = WORLD.prompts("eval", 3, 0)


def test_dial_ends_are_the_models() -> None:
    start, step1, rsa = (tiny.make_model(seed=seed) for seed in (0, 1, 2))
    seen: list[tuple[int, int, str]] = []

    def scored(
        policy: PreTrainedModel, dial_to: tuple[PreTrainedModel, float] | None = None
    ) -> list[ScoredAnswer]:
        return measure(
            WORLD, PROMPTS, EVALUATION, policy=policy, start=start,
            tokenizer=tiny.make_tokenizer(), seed=5, dial_to=dial_to,
            update=lambda n, total, note: seen.append((n, total, note)),
        )  # fmt: skip

    plain = scored(step1)
    assert seen[0][2] == "sampling"
    assert seen[-1] == (12, 12, "scoring")
    assert len(plain) == 6
    assert all(answer.kl > 0 and answer.srr >= answer.kl for answer in plain)
    for w, model in ((0.0, step1), (1.0, rsa)):
        for one, other in zip(scored(step1, (rsa, w)), scored(model), strict=True):
            assert (one.text, one.cost) == (other.text, other.cost)
            assert one.kl == pytest.approx(other.kl, abs=1e-3)
    assert {answer.kl for answer in scored(start)} == {0.0}


def test_vllm_samples_dials_too_and_is_told_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    def recorded(*given: Any, vllm: VllmConfig, **options: Any) -> Any:
        told.append({"vllm": vllm, "dial_to": options["dial_to"]})
        return sample(*given, **options)

    monkeypatch.setitem(BACKENDS, "vllm", recorded)
    start, step1, final = (tiny.make_model(seed=seed) for seed in (0, 1, 2))
    how = dataclasses.replace(EVALUATION, backend="vllm", vllm=VllmConfig(tensor_parallel_size=2))
    options: dict[str, Any] = {"tokenizer": tiny.make_tokenizer(), "seed": 5}
    options |= {"policy": step1, "start": start, "dial_to": (final, 0.5)}
    found = measure(WORLD, PROMPTS, how, **options)
    assert found == measure(WORLD, PROMPTS, EVALUATION, **options)
    assert told == [{"vllm": VllmConfig(tensor_parallel_size=2), "dial_to": (final, 0.5)}]


def test_distances_are_measured_on_the_first_prompts_only() -> None:
    start, policy = tiny.make_model(seed=0), tiny.make_model(seed=1)
    seen: list[tuple[int, int]] = []

    def scored(evaluation: EvaluationConfig) -> list[ScoredAnswer]:
        return measure(
            WORLD, PROMPTS, evaluation, policy=policy, start=start,
            tokenizer=tiny.make_tokenizer(), seed=5,
            update=lambda n, total, note: seen.append((n, total)),
        )  # fmt: skip

    every = scored(EVALUATION)
    few = scored(dataclasses.replace(EVALUATION, distance_prompts=1))
    assert seen[-1] == (8, 8)
    assert [math.isnan(answer.kl) for answer in few] == [False] * 2 + [True] * 4
    for one, other in zip(few, every, strict=True):
        assert (one.text, one.reward, one.cost) == (other.text, other.reward, other.cost)
    assert few[0].kl == pytest.approx(every[0].kl)


def test_scored_answers_survive_any_text(tmp_path: Path) -> None:
    texts = ["plain", "two\nlines", "separators \u2028 \u0085", 'quotes " and \\', "", "ü 🙂"]
    scored = [ScoredAnswer("p", text, 0.1, 2.5, 1e-9, 0.3, 4) for text in texts]
    write_scored(tmp_path / "scored.jsonl", scored)
    assert read_scored(tmp_path / "scored.jsonl") == scored
