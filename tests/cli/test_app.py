"""The commands as a stranger types them, on a tiny model and a tiny world."""

from __future__ import annotations

import errno
import gzip
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from riskalign.cli import main
from riskalign.pipeline import AlignConfig, EvaluationConfig, StepConfig
from riskalign.settings import fields

WORLD = "tests.pipeline.conftest:Letters"


@pytest.fixture
def model(start_folder: Path) -> str:
    return str(start_folder)


@pytest.fixture
def recipe(tmp_path: Path, model: str) -> str:
    step = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    generation = {"max_new_tokens": 6, "batch_size": 16}
    content = {
        "model": model,
        "output_dir": str(tmp_path / "run"),
        "world": WORLD,
        "helpful": step,
        "safe": step,
        "sampling": {"prompts": 4, "answers_per_prompt": 4, **generation},
        "evaluation": {"prompts": 3, "answers_per_prompt": 2, "n_boot": 50, **generation},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of `riskalign *arguments`."""
    monkeypatch.setattr(sys, "argv", ["riskalign", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_align_then_again_then_report(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    recipe: str,
) -> None:
    assert run(monkeypatch, "align", "-c", recipe, "--evaluation.dial", "[0.5]") == 0
    shown = capsys.readouterr().out
    for words in ("Train the helpful step", "Train the safe step", "Evaluate final", "CVaR"):
        assert words in shown
    folder = tmp_path / "run"
    for name in ("results.json", "report.html", "manifest.json", "model/model.safetensors"):
        assert (folder / name).is_file(), name
    before = (folder / "model" / "model.safetensors").read_bytes()
    assert run(monkeypatch, "align", "-c", recipe, "--evaluation.dial", "[0.5]") == 0
    assert "done before" in capsys.readouterr().out
    assert (folder / "model" / "model.safetensors").read_bytes() == before
    (folder / "report.html").unlink()
    assert run(monkeypatch, "report", str(folder)) == 0
    assert "<html" in (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    assert run(monkeypatch, "report", "--config", recipe) == 0
    assert (folder / "report.html").is_file()


def test_sample_train_and_evaluate_are_the_job_in_parts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    recipe: str,
) -> None:
    pairs, again = tmp_path / "pairs.jsonl.gz", tmp_path / "again.jsonl.gz"
    for out in (pairs, again):
        assert run(monkeypatch, "sample", "-c", recipe, "--kind", "safe", "--out", str(out)) == 0
    assert pairs.read_bytes() == again.read_bytes()
    lines = gzip.decompress(pairs.read_bytes()).decode().splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert rows
    assert all(row["score_chosen"] > row["score_rejected"] for row in rows)

    trained = tmp_path / "trained"
    flags = ["--safe.data", str(pairs), "--output-dir", str(trained)]
    assert run(monkeypatch, "train", "-c", recipe, "--step", "safe", *flags) == 0
    assert (trained / "model" / "config.json").is_file()
    assert not (trained / "results.json").exists()

    compared = tmp_path / "compared"
    flags = ["--final", str(trained / "model"), f"--output_dir={compared}"]
    assert run(monkeypatch, "evaluate", "-c", recipe, *flags) == 0
    results = json.loads((compared / "results.json").read_text())
    assert set(results["models"]) == {"start", "final"}
    assert results["dial"] == []
    command = ["riskalign", "evaluate", "-c", recipe, *flags]
    assert shlex.split(results["reproduce"]["command"]) == command
    flags += ["--step1", str(tmp_path / "start")]
    assert run(monkeypatch, "evaluate", "-c", recipe, *flags) == 0
    results = json.loads((compared / "results.json").read_text())
    assert [point["w"] for point in results["dial"]] == [0.0, 0.5, 1.0, 1.5]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["align", "--beta", "0"], "beta"),
        (["align", "--beta"], "--beta: needs a value"),
        (["align", "--btea", "1"], "beta"),  # the nearest valid name
        (["align", "--safe.risk", "cvar:1"], "cvar"),
        (["align", "-c", "nowhere.yaml"], "nowhere.yaml"),
        (["align", "--world", "volt"], "no world is named 'volt'"),
        (["align", "--model", "no/such/folder/here"], "no/such/folder/here"),
        (["sample", "--kind", "kind", "--out", "x.jsonl"], "helpful"),
        (["sample", "--kind", "safe", "--out", "x.txt"], ".jsonl"),
        (["sample", "--kind", "safe", "--out", "/dev/null/x.jsonl"], "cannot be written"),
        (["report", "nowhere"], "nowhere"),
        (["evaluate", "--rsa", "x", "--world", "null"], "world"),  # what --final was called
        (["evaluate", "--rsa", "x", "--final", "x"], "old name"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_input_ends_with_code_2_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "x.jsonl").exists()


def test_an_interruption_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("riskalign.pipeline.align", interrupted)
    assert run(monkeypatch, "align", "-c", recipe) == 130
    assert "the same command takes up what is finished" in capsys.readouterr().err


def test_a_bad_recipe_is_told_by_file_line_and_field(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("model: x\nsafe:\n  learnign_rate: 1\n")
    assert run(monkeypatch, "align", "-c", str(path)) == 2
    shown = capsys.readouterr().err
    for words in ("bad.yaml, line 3", "learnign_rate", "learning_rate"):
        assert words in shown


def test_config_prints_a_recipe_that_can_be_read_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "config", "--safe.risk", "erm:0.5") == 0
    first = capsys.readouterr().out
    assert yaml.safe_load(first)["safe"]["risk"] == "erm:0.5"
    (tmp_path / "printed.yaml").write_text(first)
    assert run(monkeypatch, "config", "-c", str(tmp_path / "printed.yaml")) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    "command",
    [
        "quickstart",
        "align",
        "train",
        "sample",
        "evaluate",
        "report",
        "config",
        "verify",
        "plan",
        "judge",
    ],
)
def test_every_command_has_help_with_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run(monkeypatch, command, "--help") == 0
    assert f"Example: riskalign {command}" in capsys.readouterr().out


def test_help_lists_every_field_with_its_meaning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "align", "--help") == 0
    told = capsys.readouterr().out
    groups = {"": AlignConfig, "helpful.": StepConfig, "evaluation.": EvaluationConfig}
    for prefix, cls in groups.items():
        for name, _, _, meaning in fields(cls):
            assert f"--{prefix}{name}" in told
            assert meaning


def test_a_full_disk_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "v.json"))

    monkeypatch.setattr("riskalign.theory.verify.CLAIMS", ())
    monkeypatch.setattr("riskalign.cli.app.write_text", full)
    monkeypatch.setattr("riskalign.theory.verify.run", lambda setting, **options: [])
    monkeypatch.setattr(sys, "argv", ["riskalign", "verify", "--json", str(tmp_path / "v.json")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert "the disk is full" in told
    assert "v.json" in told


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import riskalign

    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == f"riskalign {riskalign.__version__}"
