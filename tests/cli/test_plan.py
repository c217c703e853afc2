"""`riskalign plan` prints sample sizes, and refuses numbers out of range with exit code 2."""

import sys

import pytest

from riskalign.cli import main
from riskalign.evaluation import plan


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["riskalign", "plan", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_one_line_and_the_whole_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--level", "0.99", "--width", "0.1") == 0
    shown = capsys.readouterr().out
    needed = plan(0.99, 0.1)
    assert f"{needed.to_rule_out:,}" in shown
    assert f"{needed.to_estimate:,}" in shown
    assert run(monkeypatch) == 0
    assert capsys.readouterr().out.count("0.95") >= 3


def test_refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--level", "1.5") == 2
    assert "tail level" in capsys.readouterr().err
