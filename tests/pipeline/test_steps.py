"""Pairs from a model's own answers, and the trainer's settings from a step's."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from riskalign.atomic import write_json_lines
from riskalign.data import load_pairs
from riskalign.models import LoadedModel, fingerprint
from riskalign.pipeline.settings import SamplingConfig, StepConfig
from riskalign.pipeline.steps import for_inference, sample_pairs, training_config
from riskalign.sampling import BACKENDS, sample
from tests import tiny
from tests.pipeline.conftest import Letters

SAMPLING = SamplingConfig(prompts=5, answers_per_prompt=4, max_new_tokens=6, batch_size=8)


def _loaded() -> LoadedModel:
    return LoadedModel(tiny.make_model(), tiny.make_tokenizer(), "tiny", "")


def test_pairs_are_ranked_by_the_world_and_read_back(tmp_path: Path) -> None:
    world, loaded = Letters(), _loaded()
    before = fingerprint(loaded.model)
    rows, counts = sample_pairs(world, loaded, "helpful", SAMPLING, seed=1)
    assert counts["answers"] == 20
    assert counts["pairs"] == len(rows) <= 5
    assert 0 < counts["mean_reward"] < 1
    for row in rows:
        assert row["score_chosen"] > row["score_rejected"]
        prompt = world.prompts("train", 1, 1)[0]
        assert world.reward(prompt, row["chosen"][0]["content"]) == row["score_chosen"]
    assert fingerprint(loaded.model) == before
    write_json_lines(tmp_path / "pairs.jsonl", rows)
    assert len(load_pairs(tmp_path / "pairs.jsonl")) == len(rows)
    assert sample_pairs(world, loaded, "helpful", SAMPLING, seed=1)[0] == rows
    assert sample_pairs(world, loaded, "helpful", SAMPLING, seed=2)[0] != rows


def test_answers_are_split_over_the_temperatures(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, int]] = []
    told: list[tuple[int, int]] = []

    def recorded(*arguments: Any, **options: Any) -> Any:
        asked.append((options["temperature"], options["answers_per_prompt"]))
        return sample(*arguments, **options)

    monkeypatch.setitem(BACKENDS, "transformers", recorded)
    both = dataclasses.replace(SAMPLING, temperatures=(0.5, 2.0))
    _, counts = sample_pairs(
        Letters(), _loaded(), "helpful", both, seed=1,
        update=lambda n, total, note: told.append((n, total)),
    )  # fmt: skip
    assert asked == [(0.5, 2), (2.0, 2)]
    assert counts["answers"] == 20
    assert [n for n, _ in told] == [8, 10, 18, 20]
    assert {total for _, total in told} == {20}


def test_inference_copy_leaves_the_original() -> None:
    loaded = _loaded()
    loaded.model.train()
    copy = for_inference(loaded, bf16=True)
    assert copy.dtype == torch.bfloat16
    assert not copy.training
    assert loaded.model.dtype == torch.float32
    assert loaded.model.training


def test_every_step_setting_reaches_the_trainer(tmp_path: Path) -> None:
    step = StepConfig(
        risk="erm:0.5", loss_type="rsa2", target="hard", alpha=0.3, gap_scale=2.0,
        label_smoothing=0.1, learning_rate=3e-4, num_train_epochs=1.5, max_steps=7,
        per_device_train_batch_size=3, gradient_accumulation_steps=2, gradient_checkpointing=True,
        max_length=100, max_prompt_length=50, truncation_mode="keep_start", warmup_ratio=0.1,
        weight_decay=0.01, max_grad_norm=0.5, lr_scheduler_type="cosine", logging_steps=3,
        save_strategy="steps", save_steps=9, cache_reference="disk", compile_layers=True,
        desirable_weight=1.5, undesirable_weight=0.5, per_device_eval_batch_size=5,
    )  # fmt: skip
    elsewhere = {
        "skip", "data", "beta", "bf16", "sampling", "own_answers", "eval_data", "max_eval_samples",
    }  # fmt: skip
    assert all(
        getattr(step, field.name) != field.default
        for field in dataclasses.fields(StepConfig)
        if field.name not in elsewhere
    ), "a new setting must be tried here"
    made = training_config(step, beta=0.7, seed=5, bf16=False, folder=tmp_path)
    renamed = {"gradient_checkpointing": "activation_checkpointing"}
    for field in dataclasses.fields(StepConfig):
        if field.name not in {*elsewhere, "warmup_ratio"}:
            name = renamed.get(field.name, field.name)
            value = getattr(made, name if hasattr(made, name) else field.name)
            assert value == getattr(step, field.name), field.name
    assert (made.beta, made.seed, made.bf16, made.warmup_steps) == (0.7, 5, False, 0.1)
    assert made.disable_tqdm
