"""`riskalign evaluate --rare` as a stranger types it."""

import json
import sys
from pathlib import Path

import pytest

from riskalign.cli import main
from riskalign.models import save_model
from tests import tiny

WORLD = "tests.pipeline.conftest:Letters"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["riskalign", "evaluate", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_with_and_without_a_dial(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for seed in (1, 2):
        save_model(tiny.make_model(seed=seed), tiny.make_tokenizer(), tmp_path / str(seed))
    common = ["--rare", "--final", str(tmp_path / "2"), "--world", WORLD]
    common += ["--evaluation.prompts", "60", "--evaluation.max_new_tokens", "5"]
    common += ["--output_dir", str(tmp_path / "run")]
    flags = ["--step1", str(tmp_path / "1"), "--w", "0.9", "--looser", "0.8"]
    assert run(monkeypatch, *common, *flags) == 0
    shown = capsys.readouterr().out
    for words in ("Unsafe rate", "CVaR 0.99", "w = 0.9", "effective size", "60 own answers alone"):
        assert words in shown
    found = json.loads((tmp_path / "run" / "rare.json").read_text())
    assert (found["w"], found["looser"], found["counts"]) == (0.9, [0.8], [1, 3])
    assert run(monkeypatch, *common) == 0
    assert "plain sampling: without --step1 there is no dial" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rare"], "Give --final"),
        (["--final", "x", "--w", "0.5"], "go with --rare"),
        (["--final", "x", "--looser", "0.5"], "go with --rare"),
        (["--rare", "--final", "x", "--looser", "0.5"], "Give --step1"),
        (["--rare", "--final", "x", "--step1", "y", "--looser", "a,b"], "no list of numbers"),
        (["--rare", "--final", "x", "--step1", "y", "--looser", "1.5"], "below w, 1"),
        (["--rare", "--final", "x", "--step1", "y", "--w", "nan"], "w"),
        (["--rare", "--final", "x", "--step1", "y", "--evaluation.top_p", "0.9"], "top_p"),
        (["--rare", "--final", "x", "--evaluation.prompts", "5"], "20 answers in all"),
        (["--rare", "--final", "x", "--prompts", "set.json"], "Give one"),
    ],
)
def test_bad_input_is_told_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("riskalign.pipeline.rare.load_model", None)
    assert run(monkeypatch, *arguments, "--world", WORLD) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert "Traceback" not in shown.err
    assert not list(tmp_path.iterdir())
