"""`riskalign data` as it is typed: counts, a folder of pairs, errors that write nothing."""

import json
import sys
from pathlib import Path

import pytest

from riskalign.cli import main
from riskalign.data import load_pairs
from tests.data.test_preferences import ROWS, write

WHOLE = ["--eval_fraction", "0"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["riskalign", "data", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return write(tmp_path / "rows.jsonl", ROWS)


def test_counts_are_shown(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, path, *WHOLE, "--safe_pairs", "one_safe") == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line[:1] == "│"]
    shown = {row[1].strip(): row[2].strip() for row in rows}
    assert shown["read"] == "6"
    assert shown["safe pairs, train"] == "2"


def test_pairs_are_written(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "pairs"
    assert run(monkeypatch, path, *WHOLE, "--out", str(out)) == 0
    assert {file.name for file in out.iterdir()} == {
        "counts.json",
        "helpful.jsonl",
        "safe.jsonl",
    }
    assert len(load_pairs(out / "safe.jsonl")) == 3
    about = json.loads((out / "counts.json").read_text())
    assert about["counts"]["helpful pairs, train"] == 6
    assert len(about["sha256"][path]) == 64


def test_held_out_files(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "pairs"
    options = ["--eval_fraction", "0.6", "--safe_pairs", "all", "--out", str(out)]
    assert run(monkeypatch, path, *options) == 0
    lines = (out / "prompts_eval.jsonl").read_text().splitlines()
    held_out = load_pairs(out / "helpful_eval.jsonl")
    assert [json.loads(line)["prompt"] for line in lines] == list(held_out["prompt"])
    assert len(held_out) + len(load_pairs(out / "helpful.jsonl")) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--safe_pairs", "some"], "safe_pairs"),
        (["--nothing", "1"], "no such field"),
        (["--out", "."], "exists"),
    ],
)
def test_bad_input_ends_with_2(
    options: list[str],
    message: str,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert run(monkeypatch, path, *options) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
