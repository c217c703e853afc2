"""The step `ppo` in a job: its reference, its scorers, doing nothing twice, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from riskalign import align
from riskalign.baselines import load_scalar_model
from riskalign.errors import InputError
from riskalign.models import load_model
from riskalign.pipeline import load_config, load_plan, run_plan
from riskalign.pipeline.rlhf import split_by_prompt
from tests import tiny
from tests.pipeline.test_run import Recorder

Make = Callable[..., dict[str, Any]]
PPO: dict[str, Any] = {
    "iterations": 2,
    "prompts_per_iteration": 3,
    "answers_per_prompt": 2,
    "num_mini_batches": 2,
    "max_new_tokens": 6,
    "learning_rate": 1e-3,
}


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


@pytest.mark.parametrize("peft", [None, {"r": 4, "lora_alpha": 8}])
def test_after_the_helpful_step_and_nothing_twice(
    job: Make, tmp_path: Path, peft: dict[str, Any] | None
) -> None:
    config = job(order=["helpful", "ppo"], ppo=PPO, peft=peft)
    recorder = Recorder()
    result = align(config, progress=recorder)
    assert [s for s in recorder.stages if "ppo" in s or "pairs" in s] == [
        "pairs-helpful", "train-ppo",
    ]  # fmt: skip
    about = manifest(tmp_path / "run")
    assert about["models"]["ppo"]["reference"] == about["models"]["helpful"]["fingerprint"]
    assert about["stages"]["train-ppo"]["steps"] == 4
    log = json.loads((tmp_path / "run" / "ppo" / "log.json").read_text())
    assert [entry["step"] for entry in log] == [1, 2]
    assert {"loss", "lambda", "cost", "kl"} <= set(log[0])
    one, other = (load_model(str(tmp_path / "run" / name / "model")) for name in ("helpful", "ppo"))
    assert any(
        not torch.equal(a, b)
        for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True)
    )
    assert not (tmp_path / "run" / "ppo" / "checkpoints").exists()
    assert result.results is not None
    models = json.loads(result.results.read_text())["models"]
    assert list(models) == ["start", "step1", "rsa"]
    again = Recorder()
    align(config, progress=again)
    told = dict(zip(again.stages, again.notes, strict=True))
    assert told["train-ppo"] == "done before"


def test_with_models_of_reward_and_cost(job: Make, tmp_path: Path) -> None:
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
    sampling = job()["sampling"] | {"prompts": 10}
    ppo = PPO | {"ptx_coef": 0.5}
    recorder = Recorder()
    config = job(order=["ppo"], ppo=ppo, scorers=settings, sampling=sampling, evaluation=None)
    align(config, progress=recorder)
    assert recorder.stages == [
        "load", "pairs-ppo-helpful", "scorer-ppo-reward", "pairs-ppo-safe", "scorer-ppo-cost",
        "pairs-ppo-helpful", "train-ppo", "model",
    ]  # fmt: skip
    about = manifest(tmp_path / "run")
    assert {"accuracy", "brier", "ece"} <= set(about["models"]["ppo-reward"])
    assert {"sign_accuracy", "sign_brier"} <= set(about["models"]["ppo-cost"])
    assert about["stages"]["scorer-ppo-cost"]["held_out"] >= 1
    for kind in ("reward", "cost"):
        load_scalar_model(tmp_path / "run" / "ppo" / "scorers" / kind)
    log = json.loads((tmp_path / "run" / "ppo" / "log.json").read_text())
    assert log[0]["ptx_loss"] > 0


def test_in_a_comparison(job: Make) -> None:
    base = job(ppo=PPO) | {"compare": {"presets": ["sacpo", "safe-rlhf"], "own": ["sacpo"]}}
    result = run_plan(load_plan(base))
    budget = json.loads(result.results.read_text())["budgets"]["safe-rlhf"]
    assert budget["updates"] == 3 + 4
    assert budget["examples"] == 6 + 12
    assert budget["sampled_tokens"] > 12


def test_held_out_prompts_are_their_own() -> None:
    rows = [dict(pair, prompt=f"p{i % 5}") for i, pair in enumerate(tiny.make_pairs(8))]
    kept, held_out = split_by_prompt(Dataset.from_list(rows))
    assert held_out is not None
    assert set(kept["prompt"]) == {"p0", "p1", "p2", "p3"}
    assert set(held_out["prompt"]) == {"p4"}
    assert split_by_prompt(Dataset.from_list(rows[:2]))[1] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ppo": {"kl_coef": -1}}, r"ppo: kl_coef is -1"),
        ({"ppo": {"klcoef": 1}}, r"ppo.klcoef: no such field; did you mean 'kl_coef'"),
        ({"scorers": {"head_std": -1}}, r"scorers: head_std is -1"),
        ({"world": None, "evaluation": None}, r"order: has ppo, which answers a world's prompts"),
    ],
)
def test_bad_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config({"order": ["ppo"], **change})
