"""A broken model ends every command with one line, exit code 2, and nothing written."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from riskalign.cli import main
from riskalign.models import save_model
from tests import tiny
from tests.broken import BROKEN, save_broken

WORLD = "--world=tests.pipeline.conftest:Letters"
Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["riskalign", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    save_model(tiny.make_model(), tiny.make_tokenizer(), tmp_path / "sound")
    return call


COMMANDS = {
    "sample": "sample --kind safe --model {broken} --out {out}.jsonl",
    "sample answers": "sample --kind answers --model {broken} --out {out}.jsonl",
    "evaluate final": "evaluate --final {broken} --model {sound} --output_dir {out}",
    "evaluate start": "evaluate --final {sound} --model {broken} --output_dir {out}",
    "evaluate step1": "evaluate --final {sound} --step1 {broken} --model {sound} "
    "--output_dir {out}",
    "train": "train --step safe --model {broken} --output_dir {out}",
    "train with lora": "train --step helpful --peft.r 4 --model {broken} --output_dir {out}",
    "align": "align --model {broken} --output_dir {out}",
    "compare": "compare --presets rsa --seeds 0 --model {broken} --output_dir {out}/deep",
    "merge first": "merge {broken} {sound} --w 0.5 --out {out}",
    "merge second": "merge {sound} {broken} --w 0.5 --out {out}",
    "merge at 0": "merge {sound} {broken} --w 0 --out {out}",
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("command", COMMANDS)
def test_broken_models_are_refused(
    command: str, how: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_broken(tmp_path / "broken", how)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    names = {name: tmp_path / name for name in ("sound", "broken", "out")}
    arguments = COMMANDS[command].format(**names).split()
    if command.split()[0] != "merge":
        arguments.append(WORLD)
    capsys.readouterr()
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line]
    assert line.startswith("error ")
    assert str(tmp_path / "broken") in line
    assert ("NaN or infinity" in line) == (how in ("nan", "infinity"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--merges=[1e30]", "merges: '1e30' should be less than or equal to 100"),
        ("--merges=[.nan]", "merges: nan should be a finite number"),
        ("--evaluation.dial=[1e30]", "evaluation.dial: '1e30' should be less than or equal to 100"),
    ],
)
def test_weights_far_out_are_refused(
    flag: str, words: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, out = str(tmp_path / "sound"), tmp_path / "out"
    assert run("align", "--model", sound, "--output_dir", str(out), WORLD, flag) == 2
    assert words in capsys.readouterr().err
    assert run("merge", sound, sound, "--w", "1e30", "--out", str(out)) == 2
    assert "w: 1e+30 is not in [-100, 100]" in capsys.readouterr().err
    assert not out.exists()
