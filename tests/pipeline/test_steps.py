"""Pairs from a model's own answers, and the trainer's settings from a step's."""

import dataclasses
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from riskalign.models import LoadedModel
from riskalign.pipeline import load_config
from riskalign.pipeline.fit import quiet_arguments, training_config
from riskalign.pipeline.ledger import readable, resolve
from riskalign.pipeline.machine import for_inference
from riskalign.pipeline.presets import preset_names
from riskalign.pipeline.settings import SamplingConfig, StepConfig, for_order
from tests import tiny

SAMPLING = SamplingConfig(prompts=5, answers_per_prompt=4, max_new_tokens=6, batch_size=8)


def test_for_inference_a_model_is_moved_not_copied() -> None:
    loaded = LoadedModel(tiny.make_model(), tiny.make_tokenizer(), "tiny", "")
    moved = for_inference(loaded, bf16=True)
    assert moved is loaded.model
    assert moved.dtype == torch.bfloat16
    assert not moved.training


def test_every_step_setting_reaches_the_trainer(tmp_path: Path) -> None:
    step = StepConfig(
        risk="erm:0.5", loss_type="rsa2", target="hard", alpha=0.3, gap_scale=2.0,
        label_smoothing=0.1, learning_rate=3e-4, num_train_epochs=1.5, max_steps=7,
        per_device_train_batch_size=3, gradient_accumulation_steps=2, gradient_checkpointing=True,
        max_length=100, max_prompt_length=50, truncation_mode="keep_start", warmup_ratio=0.1,
        weight_decay=0.01, max_grad_norm=0.5, lr_scheduler_type="cosine", logging_steps=3,
        save_strategy="steps", save_steps=9, cache_reference="disk", compile_layers=True,
        desirable_weight=1.5, undesirable_weight=0.5, per_device_eval_batch_size=5,
        dataset_num_proc=3, cache_dataset=False,
        optim="adafactor", dtype="bfloat16",
    )  # fmt: skip
    elsewhere = {
        "skip", "data", "beta", "bf16", "sampling", "own_answers", "eval_data", "max_eval_samples",
        "answer_risk", "limit", "max_gap", "rows", "anchors", "safe_cost", "safety_margin",
        "loss_options", "dataset_streaming", "max_train_samples",
        "fsdp", "fsdp_config", "deepspeed", "dtype",
    }  # fmt: skip
    assert all(
        getattr(step, field.name) != field.default
        for field in dataclasses.fields(StepConfig)
        if field.name not in elsewhere
    ), "a new setting must be tried here"
    made = training_config(step, beta=0.7, seed=5, bf16=False, folder=tmp_path, engine=True)
    renamed = {"gradient_checkpointing": "activation_checkpointing"}
    for field in dataclasses.fields(StepConfig):
        if field.name not in {*elsewhere, "warmup_ratio"}:
            name = renamed.get(field.name, field.name)
            value = getattr(made, name if hasattr(made, name) else field.name)
            assert value == getattr(step, field.name), field.name
    assert (made.beta, made.seed, made.bf16, made.warmup_steps) == (0.7, 5, False, 0.1)
    assert made.disable_tqdm
    cut = dataclasses.replace(step, target="gap", label_smoothing=0.0, max_gap=3.0)
    assert training_config(cut, beta=0.7, seed=5, bf16=False, folder=tmp_path).max_gap == 3.0
    sharded = dataclasses.replace(step, fsdp=True, fsdp_config={"version": 2}, deepspeed="ds.json")
    given = {"fsdp": True, "fsdp_config": {"version": 2}, "deepspeed": "ds.json"}
    assert sharded.engine() == {"optim": "adafactor", **given}
    # Where rows are only counted or judged, this process does so alone.
    alone = training_config(for_order(sharded), beta=0.7, seed=5, bf16=False, folder=tmp_path)
    assert not alone.fsdp
    assert alone.deepspeed is None


@pytest.mark.parametrize("preset", preset_names())
def test_the_order_of_answers_is_asked_of_every_method(preset: str, tmp_path: Path) -> None:
    """On held-out pairs a step is judged by its loss alone, whatever it was trained towards."""
    config = load_config({"helpful": {"loss_options": None}}, preset=preset)
    for kind in config.pair_kinds():
        step = for_order(config.step(kind))
        made = training_config(step, beta=0.1, seed=0, bf16=False, folder=tmp_path)
        assert (made.target, made.max_gap) == ("hard", None)


@pytest.mark.parametrize("name", ["quickstart", "short"])
def test_a_jobs_configuration_is_read_back(name: str) -> None:
    path = files("riskalign.quickstart") / f"{name}.yaml"
    config = load_config(str(path))
    assert config.safe.limit is not None
    assert resolve(load_config(readable(config))) == resolve(config)


def test_bf16_is_for_processors_as_well(tmp_path: Path) -> None:
    """transformers refuses it on a processor unless told that it is meant to compute there."""
    assert TrainingArguments(bf16=True, **quiet_arguments(tmp_path)).bf16
