"""`riskalign merge` writes the average of two models, and refuses what does not fit."""

import sys
from pathlib import Path

import pytest
import torch

from riskalign.cli import main
from riskalign.data.identity import text_hash
from riskalign.models import load_model, save_model
from riskalign.pipeline.judged import note_prompts, prompts_of
from tests import tiny


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["riskalign", "merge", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    found = []
    for seed in (1, 2):
        folder = tmp_path / f"m{seed}"
        save_model(tiny.make_model(seed=seed), tiny.make_tokenizer(), folder)
        found.append(str(folder))
    return found


def test_the_average_is_written(
    two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "between"
    assert run(monkeypatch, *two, "--w", "0.25", "--out", str(out)) == 0
    a, b, mixed = (load_model(name).model.state_dict() for name in (*two, str(out)))
    for name, weight in mixed.items():
        torch.testing.assert_close(weight, 0.75 * a[name] + 0.25 * b[name])


def test_what_either_was_trained_on_is_passed_on(
    two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a scorer that learnt from these prompts could judge the average."""
    arguments = (*two, "--w", "0.5", "--out")
    assert run(monkeypatch, *arguments, str(tmp_path / "untold")) == 0
    assert prompts_of(str(tmp_path / "untold")) is None
    note_prompts(Path(two[0]), "start", prompts=["a", "b"])
    assert run(monkeypatch, *arguments, str(tmp_path / "one")) == 0
    assert prompts_of(str(tmp_path / "one")) == {text_hash("a"), text_hash("b")}
    note_prompts(Path(two[1]), two[0], prompts=["c"])
    assert run(monkeypatch, *arguments, str(tmp_path / "both")) == 0
    assert prompts_of(str(tmp_path / "both")) == {text_hash(name) for name in "abc"}


def test_refusals(
    two: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "between"
    assert run(monkeypatch, *two, "--w", "nan", "--out", str(out)) == 2
    assert "w: nan is not in [-100, 100]" in capsys.readouterr().err
    full = tmp_path / "full"
    full.mkdir()
    (full / "kept.txt").write_text("kept")
    assert run(monkeypatch, *two, "--w", "0.5", "--out", str(full)) == 2
    assert (full / "kept.txt").read_text() == "kept"
    wide = tmp_path / "wide"
    save_model(tiny.make_model(hidden_size=64), tiny.make_tokenizer(), wide)
    assert run(monkeypatch, two[0], str(wide), "--w", "0.5", "--out", str(out)) == 2
    assert not out.exists()
