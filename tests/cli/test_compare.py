"""`riskalign compare` and `presets` as a stranger types them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from riskalign.cli import main
from riskalign.cli.progress import describe
from riskalign.pipeline import preset_names
from tests.pipeline.conftest import job, model_folder  # noqa: F401 - fixtures


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["riskalign", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_a_table_a_report_and_the_way_to_them(
    job: Callable[..., dict[str, Any]],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job()))
    flags = ("--presets", "sacpo,rsa-tail", "--seeds", "4", "--safe.beta", "0.3")
    assert run(monkeypatch, "compare", "-c", str(path), *flags) == 0
    shown = capsys.readouterr().out
    assert "rsa-tail" in shown
    assert "against sacpo" in shown
    assert "1 seed: intervals hold the noise of prompts" in shown
    assert (tmp_path / "run" / "compare.html").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seeds", "one"), "compare.seeds: 'one' should be a valid integer"),
        (("--presets", "rpo"), "compare.presets: 'rpo' is not one of"),
        (("--safe.alpa", "1"), "safe.alpa: no such field; did you mean 'alpha'?"),
        (("-c", "nowhere.yaml"), "config nowhere.yaml: no such file"),
    ],
)
def test_refusals(
    flags: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "compare", *flags) == 2
    assert message in capsys.readouterr().err


def test_presets_are_listed_and_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "presets") == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == preset_names()
    assert run(monkeypatch, "presets", "sacpo") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["safe"] == {"loss_type": "dpo", "risk": "mean", "answer_risk": None}
    assert run(monkeypatch, "presets", "nothing") == 2


def test_a_cell_stands_before_its_stage() -> None:
    assert describe("sacpo · seed 1 · train-safe") == "sacpo · seed 1 · Train the safe step"
    assert describe("evaluate-merge-0.5") == "Evaluate the merge at w = 0.5"
