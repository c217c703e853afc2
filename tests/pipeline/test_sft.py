"""The start step: the job starts from what comes out of it, and it is done once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from riskalign import align
from riskalign.errors import InputError
from riskalign.models import fingerprint, load_model
from riskalign.pipeline import evaluation_prompts, load_config
from riskalign.worlds import Demonstration, Prompt
from riskalign.worlds.world import Split
from tests.pipeline.conftest import Letters
from tests.pipeline.test_run import Recorder

Make = Callable[..., dict[str, Any]]
SHOWING = "tests.pipeline.test_sft:Showing"
SFT = {"demonstrations": 6, "learning_rate": 1e-2}


class Showing(Letters):
    """Letters with demonstrations and development prompts of its own."""

    splits = ("train", "dev", "eval")

    def demonstrations(self, n: int, seed: int) -> list[Demonstration]:
        """Two answers to each prompt."""
        return [
            Demonstration(p, ("The order.", "Tuesday.")) for p in self.prompts("train", n, seed)
        ]

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """Those of development ask in other words."""
        prompts = super().prompts(split, n, seed)
        if split != "dev":
            return prompts
        return [Prompt(p.id, ({"role": "user", "content": "Please tell me."},)) for p in prompts]


def test_the_job_starts_from_the_tuned_model(job: Make, tmp_path: Path, model_folder: Path) -> None:
    recorder = Recorder()
    config = job(world=SHOWING, sft=SFT)
    result = align(config, progress=recorder)
    assert recorder.stages[:4] == ["load", "train-sft", "pairs-helpful", "train-helpful"]
    assert recorder.positions["train-sft"][-1] == (3, 3)
    manifest = json.loads(result.manifest.read_text())
    raw, tuned = (
        fingerprint(load_model(str(folder)).model)
        for folder in (model_folder, tmp_path / "run" / "sft" / "model")
    )
    assert raw != tuned
    assert manifest["models"]["sft"] == {"reference": raw, "fingerprint": tuned}
    assert manifest["models"]["helpful"]["reference"] == tuned
    assert "12 demonstrated answers to 6 prompts" in manifest["notes"][0]
    assert result.results is not None
    results = json.loads(result.results.read_text())
    assert list(results["models"]) == ["start", "step1", "final"]
    assert [entry["step"] for entry in results["training"]["sft"]] == [1, 2, 3]

    again = Recorder()
    align(config, progress=again)
    assert again.notes[again.stages.index("train-sft")] == "done before"
    other = Recorder()
    align(config | {"sft": SFT | {"learning_rate": 2e-2}}, progress=other)
    assert other.notes[other.stages.index("train-sft")] == ""


def test_its_own_seed_makes_one_start_of_several_jobs(job: Make, tmp_path: Path) -> None:
    def tuned(job_seed: int, **sft: Any) -> Any:
        folder = tmp_path / f"seed{job_seed}"
        align(
            job(world=SHOWING, sft=SFT | sft, order=[], evaluation=None, seed=job_seed)
            | {"output_dir": str(folder)}
        )
        assert json.loads((folder / "manifest.json").read_text())["status"] == "finished"
        return fingerprint(load_model(str(folder / "model")).model)

    assert tuned(1, seed=5) == tuned(2, seed=5)
    assert tuned(3) != tuned(4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sft": SFT | {"demonstrations": 0}}, "sft.demonstrations: 0 should be greater"),
        ({"sft": SFT | {"learning_rate": -1}}, "sft.learning_rate: -1"),
        ({"sft": SFT | {"lr_scheduler_type": "up"}}, "sft.lr_scheduler_type: 'up'"),
        ({"sft": SFT, "world": None, "evaluation": None}, "sft: needs a world"),
        ({"sft": SFT, "load_in_4bit": True, "peft": {"r": 2}}, "load_in_4bit: does not go"),
        ({"order": []}, "order: is empty"),
    ],
)
def test_refusals(job: Make, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(job(**change))


def test_a_world_without_demonstrations_is_refused_before_any_work(job: Make) -> None:
    recorder = Recorder()
    with pytest.raises(InputError, match="'letters': has no demonstrations"):
        align(job(sft=SFT), progress=recorder)
    assert recorder.stages == ["load"]


def test_development_prompts_are_the_worlds_own_where_it_has_some(job: Make) -> None:
    def asked(world: str) -> list[Prompt]:
        config = job(world=world)
        config["evaluation"]["split"] = "dev"
        return evaluation_prompts(load_config(config))

    own = asked(SHOWING)
    assert {p.messages[0]["content"] for p in own} == {"Please tell me."}
    borrowed = asked("tests.pipeline.conftest:Letters")
    assert {p.id.split("-")[0] for p in borrowed} == {"train"}
