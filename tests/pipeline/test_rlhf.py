"""The step `ppo` in a job: its reference, its scorers, doing nothing twice, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from riskalign import align
from riskalign.errors import InputError
from riskalign.models import load_model
from riskalign.pipeline import load_config, load_plan, run_plan
from riskalign.pipeline.rlhf import split_by_prompt
from riskalign.safe_rlhf.rollout import roll_out
from riskalign.scorers import load_scalar_model
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
    assert list(models) == ["start", "step1", "final"]
    again = Recorder()
    align(config, progress=again)
    told = dict(zip(again.stages, again.notes, strict=True))
    assert told["train-ppo"] == "done before"


def test_with_models_of_reward_and_cost(job: Make, tmp_path: Path) -> None:
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
    sampling = job()["sampling"] | {"prompts": 16}
    ppo = PPO | {"ptx_coef": 0.5}
    recorder = Recorder()
    config = job(order=["ppo"], ppo=ppo, scorers=settings, sampling=sampling)
    result = align(config, progress=recorder)
    assert recorder.stages[:8] == [
        "load", "pairs-ppo-helpful", "scorer-ppo-reward", "pairs-ppo-safe", "scorer-ppo-cost",
        "pairs-ppo-helpful", "train-ppo", "model",
    ]  # fmt: skip
    about = manifest(tmp_path / "run")
    assert {"accuracy", "brier", "ece"} <= set(about["models"]["ppo-reward"])
    assert {"sign_accuracy", "sign_brier"} <= set(about["models"]["ppo-cost"])
    assert about["stages"]["scorer-ppo-cost"]["held_out"] >= 1
    assert result.results is not None
    assert result.report is not None
    shown = json.loads(result.results.read_text())["scorers"]
    assert set(shown) == {"ppo-reward", "ppo-cost"}
    html = result.report.read_text()
    assert "ppo-cost" in html
    assert "PPO-Lagrangian" in html
    assert "rises while cost exceeds its limit" in html
    for kind in ("reward", "cost"):
        load_scalar_model(tmp_path / "run" / "ppo" / "scorers" / kind)
    log = json.loads((tmp_path / "run" / "ppo" / "log.json").read_text())
    assert log[0]["ptx_loss"] > 0


def test_other_scorers_train_the_policy_anew(job: Make) -> None:
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
    config = job(order=["ppo"], ppo=PPO, scorers=settings, evaluation=None)
    align(config)
    for rate, note in ((1e-3, "done before"), (2e-3, "")):
        recorder = Recorder()
        align(config | {"scorers": settings | {"learning_rate": rate}}, progress=recorder)
        told = dict(zip(recorder.stages, recorder.notes, strict=True))
        assert told["train-ppo"] == note


def test_goes_on_from_a_checkpoint(
    job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("riskalign.pipeline.rlhf._SAVE_EVERY", 1)
    config = job(order=["ppo"], ppo=PPO, evaluation=None)
    straight = align(config | {"output_dir": str(tmp_path / "straight")})
    real = roll_out

    def stopped(*arguments: Any, **options: Any) -> Any:
        if (tmp_path / "run" / "ppo" / "checkpoints" / "ppo").exists():
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr("riskalign.safe_rlhf.ppo.roll_out", stopped)
    with pytest.raises(KeyboardInterrupt):
        align(config)
    monkeypatch.setattr("riskalign.safe_rlhf.ppo.roll_out", real)
    resumed = align(config)
    prints = [json.loads(r.manifest.read_text())["models"]["ppo"] for r in (straight, resumed)]
    assert prints[0]["fingerprint"] == prints[1]["fingerprint"]


def test_data_that_ppo_cannot_use(job: Make, tmp_path: Path) -> None:
    judged = tmp_path / "judged.jsonl"
    judged.write_text(json.dumps({"prompt": "a", "completion": "b", "label": True}) + "\n")
    kto = job()["safe"] | {"loss_type": "kto", "target": "hard", "data": str(judged)}
    config = job(order=["safe", "ppo"], safe=kto, ppo=PPO, scorers={})
    with pytest.raises(InputError, match="holds single responses, and the step ppo needs pairs"):
        align(config)
    rows = [{k: v for k, v in pair.items() if "score" not in k} for pair in tiny.make_pairs(4)]
    judged.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"scorers\.safety_signs needs 'score_chosen'"):
        align(config)


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
        ({"ppo": {"kl_coef": -1}}, r"ppo.kl_coef: -1"),
        ({"ppo": {"klcoef": 1}}, r"ppo.klcoef: no such field; did you mean 'kl_coef'"),
        ({"scorers": {"head_std": -1}}, r"scorers.head_std: -1"),
        ({"world": None, "evaluation": None}, r"order: has ppo, which answers a world's prompts"),
    ],
)
def test_bad_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config({"order": ["ppo"], **change})
