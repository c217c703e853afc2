"""Accuracy on unseen pairs: that of margins computed by hand, by the step's own implicit reward."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn

from riskalign import align
from riskalign.data import load_pairs, tokenize_rows
from riskalign.errors import InputError
from riskalign.models import LoadedModel, load_model, save_model
from riskalign.pipeline.fit import training_config
from riskalign.pipeline.held_out import held_out_accuracy
from riskalign.pipeline.settings import StepConfig, for_order
from tests import tiny

Make = Callable[..., dict[str, Any]]

STEP = StepConfig(loss_type="dpo", risk="mean", target="hard", per_device_eval_batch_size=2)


def _two(tmp_path: Path) -> tuple[LoadedModel, LoadedModel]:
    """A policy and a reference that differ."""
    for name, seed in (("policy", 1), ("reference", 2)):
        save_model(tiny.make_model(seed=seed), tiny.make_tokenizer(), tmp_path / name)
    return load_model(str(tmp_path / "policy")), load_model(str(tmp_path / "reference"))


def _log_ratio(policy: nn.Module, reference: nn.Module, prompt: list[int], own: list[int]) -> float:
    ids = torch.tensor([prompt + own])
    total = 0.0
    for sign, model in ((1, policy), (-1, reference)):
        with torch.no_grad():
            logps = model(input_ids=ids).logits.double().log_softmax(-1)
        for i, token in enumerate(own):
            total += sign * float(logps[0, len(prompt) + i - 1, token])
    return total


@pytest.mark.parametrize("loss_type", ["dpo", "kto"])
def test_it_is_the_share_of_right_orders(loss_type: Any, tmp_path: Path) -> None:
    policy, reference = _two(tmp_path)
    pairs = load_pairs(tiny.make_pairs(5))
    step = dataclasses.replace(STEP, loss_type=loss_type)
    args = training_config(for_order(step), 0.5, 0, False, tmp_path / "x")
    found = held_out_accuracy(policy, reference, pairs, args, 200)
    margins = []
    for row in tokenize_rows(pairs, policy.tokenizer, max_length=None)[0]:
        chosen, rejected = (
            _log_ratio(policy.model, reference.model, row["prompt_ids"], row[side])
            for side in ("chosen_ids", "rejected_ids")
        )
        margins.append(0.5 * (chosen - rejected))
    assert found["pairs"] == 5
    assert found["accuracy"] == sum(margin > 0 for margin in margins) / 5
    assert found["mean_margin"] == pytest.approx(sum(margins) / 5, rel=1e-4)
    assert 0 <= found["low"] <= found["accuracy"] <= found["high"] <= 1


def test_equal_models_order_by_chance(tmp_path: Path) -> None:
    policy, _ = _two(tmp_path)
    pairs = load_pairs(tiny.make_pairs(4))
    again = load_model(str(tmp_path / "policy"))
    args = training_config(STEP, 0.5, 0, False, tmp_path / "x")
    found = held_out_accuracy(policy, again, pairs, args, 200)
    assert (found["accuracy"], found["mean_margin"]) == (0.5, 0.0)


def test_no_more_pairs_than_wanted_and_the_same_for_a_seed(tmp_path: Path) -> None:
    policy, reference = _two(tmp_path)
    pairs = load_pairs(tiny.make_pairs(9))
    found = []
    for seed in (0, 0, 1):
        args = training_config(STEP, 1.0, seed, False, tmp_path / "x")
        found.append(held_out_accuracy(policy, reference, pairs, args, 3))
    assert found[0]["pairs"] == 3
    assert found[0] == found[1] != found[2]


def _write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_job_judges_its_steps_on_eval_data(job: Make, tmp_path: Path) -> None:
    config = job()
    path = _write(tmp_path / "held.jsonl", list(Dataset.from_list(tiny.make_pairs(4))))
    config["safe"] |= {"eval_data": path}
    result = align(config)
    assert result.results is not None
    held_out = json.loads(result.results.read_text())["held_out"]
    assert set(held_out) == {"safe"}
    assert held_out["safe"]["pairs"] == 4
    assert result.report is not None
    assert "on pairs that they were not trained on" in result.report.read_text()
    manifest = json.loads(result.manifest.read_text())
    assert manifest["stages"]["accuracy-safe"]["found"] == held_out["safe"]


def test_bad_eval_data_are_found_before_the_first_step(job: Make, tmp_path: Path) -> None:
    config = job()
    config["safe"] |= {"eval_data": _write(tmp_path / "held.jsonl", [{"prompt": "a"}])}
    with pytest.raises(InputError, match=r"held.jsonl, line 1: field 'chosen' is missing"):
        align(config)
    assert not (tmp_path / "run" / "pairs").exists()
