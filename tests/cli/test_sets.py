"""`riskalign evaluate` on evaluation sets, as a stranger types it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from riskalign.models import save_model
from tests import tiny
from tests.cli.test_app import run

SMALL = ["--answers_per_prompt", "1", "--max_new_tokens", "4", "--n_boot=20"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_model(tiny.make_model(), tiny.make_tokenizer(), tmp_path / "base")
    rows = [{"prompt": f"Order {i}?", "category": "order"} for i in range(3)]
    (tmp_path / "prompts.json").write_text(json.dumps(rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_set_then_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    arguments = [
        "evaluate", "--model", "start=base", "--model", "base", "--prompts", "prompts.json",
        "--output_dir", "out", *SMALL,
    ]  # fmt: skip
    assert run(monkeypatch, *arguments) == 0
    shown = capsys.readouterr().out
    for words in (
        "Check models and sets",
        "Sample answers of start",
        "Safety win rate",
        "out/evaluate",
    ):
        assert words in shown
    results = json.loads((here / "out" / "evaluate.json").read_text())
    assert list(results["models"]) == ["start", "base"]
    assert shlex.split(results["reproduce"]["command"]) == ["riskalign", *arguments]
    assert (here / "out" / "evaluate.html").is_file()
    assert run(monkeypatch, *arguments) == 0
    assert "done before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no set is named"),
        (["--prompts", "prompts.json"], "no model is named"),
        (["--prompts", "nowhere.json", "--model", "base"], "nowhere.json: no such file"),
        (["--prompts", "prompts.json", "--model", "no/such/model"], "no/such/model"),
        (["--prompts", "prompts.json", "--model", "base", "--temprature", "1"], "'temperature'"),
        (["--prompts", "prompts.json", "--model", "base", "--top_p", "2"], "top_p: 2"),
        (["--prompts", "prompts.json", "--final", "base"], "--final measures in a world"),
        (["--final", "base", "--model", "base", "--model", "base"], "one --model"),
        (["--prompts", "prompts.json", "--step1", "base"], "--final"),
    ],
)
def test_bad_input_ends_with_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    here: Path,
    arguments: list[str],
    words: str,
) -> None:
    assert run(monkeypatch, "evaluate", *arguments, "--output_dir", "out") == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "Traceback" not in shown
    assert not (here / "out" / "evaluate.json").exists()


def test_help_has_an_example_of_each_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "evaluate", "--help") == 0
    shown = capsys.readouterr().out
    for words in ("--final runs/x/model", "--over_refusal xstest_prompts.csv", "--max_new_tokens"):
        assert words in shown
