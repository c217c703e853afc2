"""What used to be found after training is refused before the first model is loaded."""

from pathlib import Path

import pytest

from riskalign.models import loading
from tests.guards.harness import WORLD, run, snapshot
from tests.guards.test_corpus import sound as sound


def _no_model(*_: object, **__: object) -> None:
    raise AssertionError("a model was loaded")


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--peft.target_modules=[nothing]", "peft.target_modules"),
        ("--peft.target_modules=q_proj", "peft.target_modules"),
        ("--peft.target_modules=[]", "peft.target_modules"),
        ("--safe.lr_scheduler_type=cosine_with_min_lr", "safe.lr_scheduler_type"),
        ("--safe.lr_scheduler_type=warmup_stable_decay", "safe.lr_scheduler_type"),
        ("--helpful.lr_scheduler_type=reduce_lr_on_plateau", "helpful.lr_scheduler_type"),
        ("--evaluation.n_boot=1e12", "evaluation.n_boot"),
        ("--sampling.max_new_tokens=1e10", "sampling.max_new_tokens"),
    ],
)
def test_late_faults_are_found_first(
    flag: str, named: str, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "pretrained", _no_model)
    model, out = f"--model={sound / 'sound'}", f"--output_dir={tmp_path / 'out'}"
    end = run("align", model, out, WORLD, flag)
    assert (end.code, end.raised) == (2, "")
    assert named in end.said
    assert snapshot(tmp_path) == {}


def test_a_model_would_be_loaded_else(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "pretrained", _no_model)
    model, out = f"--model={sound / 'sound'}", f"--output_dir={tmp_path / 'out'}"
    assert "a model was loaded" in run("align", model, out, WORLD, "--peft.r=4").raised
