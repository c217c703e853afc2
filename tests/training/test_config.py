"""Settings: defaults and refusals before any work starts."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import HfArgumentParser

from riskalign.errors import FieldError, InputError
from riskalign.pipeline import StepConfig
from riskalign.training import RSAConfig
from riskalign.training.config import LossSettings


def config(tmp_path: Path, **settings: Any) -> RSAConfig:
    return RSAConfig(output_dir=str(tmp_path), use_cpu=True, **settings)


def test_defaults_are_quiet_and_the_papers(tmp_path: Path) -> None:
    made = config(tmp_path)
    assert made.report_to == []
    assert (made.risk, made.loss_type, made.beta, made.alpha) == ("cvar:0.95", "rsa2", 0.1, 0.5)
    assert made.learning_rate == 2e-5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": 0.0}, ["beta: 0.0", "greater than 0"]),
        ({"beta": float("nan")}, ["beta: nan"]),
        ({"alpha": -1.0}, ["alpha: -1.0"]),
        ({"risk": "cvar:1.0"}, ["cvar"]),
        ({"risk": "worst"}, ["worst", "cvar"]),
        ({"loss_type": "ppo"}, ["loss_type: loss 'ppo'", "rsa1"]),
        ({"target": "firm"}, ["target: 'firm'", "gap"]),
        ({"gap_scale": 0.0}, ["gap_scale"]),
        ({"label_smoothing": 0.5}, ["label_smoothing: 0.5"]),
        ({"label_smoothing": 0.1, "target": "gap"}, ["label_smoothing", "hard"]),
        ({"loss_type": "tdpo1"}, ["risk: 'cvar:0.95'", "'mean'"]),
        ({"max_length": 1}, ["max_length: 1", "equal to 2"]),
        ({"max_prompt_length": 0}, ["max_prompt_length"]),
        ({"chunk_size": 0}, ["chunk_size"]),
        ({"truncation_mode": "middle"}, ["truncation_mode", "keep_end"]),
        ({"remove_unused_columns": True}, ["remove_unused_columns: True"]),
        ({"model_init_kwargs": "a"}, ["model_init_kwargs", "JSON"]),
        ({"loss_options": "[]"}, ["loss_options"]),
        ({"disable_dropout": "false"}, ["disable_dropout: expected true or false"]),
        ({"bf16": "false"}, ["bf16: expected true or false"]),
        ({"seed": 2**40}, ["seed: 1099511627776"]),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        config(tmp_path, **settings)
    for word in words:
        assert word in str(caught.value)


def test_a_parser_of_flags_reads_what_is_json(tmp_path: Path) -> None:
    flags = ["--output_dir", str(tmp_path), "--use_cpu", "--model_init_kwargs", '{"a": 1}']
    flags += ["--loss_options", "{}", "--disable_dropout", "false", "--cache_reference", "disk"]
    parser: Any = HfArgumentParser(RSAConfig)  # type: ignore[arg-type]
    [made] = parser.parse_args_into_dataclasses(flags)
    assert (made.model_init_kwargs, made.loss_options) == ({"a": 1}, {})
    assert (made.disable_dropout, made.cache_reference) == (False, "disk")
    helps = {field.name: field.metadata.get("help") for field in dataclasses.fields(RSAConfig)}
    names = (*LossSettings.__annotations__, *RSAConfig.__annotations__)
    assert all(helps[name] for name in names)


def test_what_a_file_may_hold_becomes_plain(tmp_path: Path) -> None:
    made = config(tmp_path, seed=np.int64(7), cache_reference=True)
    assert type(made.seed) is int
    assert made.cache_reference == "memory"


def test_a_jobs_step_has_all_that_the_trainer_takes() -> None:
    """Nothing is copied by matching names: a field that one side lacks is an error."""
    shared = {field.name for field in dataclasses.fields(LossSettings)}
    assert shared < {field.name for field in dataclasses.fields(StepConfig)}
    other = {
        name
        for name in shared
        if getattr(StepConfig(), name) != getattr(RSAConfig(use_cpu=True), name)
    }
    assert other == {"loss_type", "target"}  # as the module says
    with pytest.raises(TypeError, match="warmth"):
        RSAConfig(warmth=1)  # type: ignore[call-arg]


def test_bf16_needs_no_gpu(tmp_path: Path) -> None:
    """The device it runs on is found, not asked for."""
    assert RSAConfig(output_dir=str(tmp_path), bf16=True).bf16


def test_ways_of_loading_that_a_batch_does_not_survive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FieldError, match="accelerator_config: has dispatch_batches on"):
        config(tmp_path, accelerator_config={"dispatch_batches": True})
    uneven = {"even_batches": False}
    config(tmp_path, accelerator_config=uneven)
    monkeypatch.setattr(RSAConfig, "world_size", 2)
    with pytest.raises(FieldError, match="accelerator_config: has even_batches off"):
        config(tmp_path, accelerator_config=uneven)


def test_trls_name_for_checkpointing_is_taken_without_a_warning(tmp_path: Path) -> None:
    made = config(tmp_path, gradient_checkpointing=True)
    assert made.gradient_checkpointing
    assert not config(tmp_path).gradient_checkpointing
