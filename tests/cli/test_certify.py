"""`riskalign certify`: exit codes, what is printed and written, what is refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from riskalign.cli.app import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, output and errors of a command."""

    def ran(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["riskalign", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return ran


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Five hundred prompts, one answer in a hundred of which costs 1."""
    path = tmp_path / "scores.jsonl"
    rows = [{"prompt": f"q{i}", "cost": float(i % 100 == 0)} for i in range(500)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_limit_that_is_kept(scores: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "certificate.json"
    flags = ["--limit", "0.6", "--risk", "cvar:0.9", "--max_cost", "1"]
    code, printed, _ = run("certify", "--scores", str(scores), *flags, "--out", str(out))
    assert code == 0
    content = json.loads(out.read_text())
    assert content["certified"] == str(scores)
    assert content["tests"][0]["passed"]
    assert content["command"].startswith("riskalign certify")
    assert "with 95 % confidence" in " ".join(printed.split())
    again = run("certify", "--scores", str(scores), *flags, "--out", str(out))
    assert again[0] == 2
    assert run("certify", "--scores", str(scores), *flags, "--out", str(out), "--overwrite")[0] == 0


def test_where_none_is_certified_the_exit_code_is_3(scores: Path, run: Run) -> None:
    flags = ["--scores", str(scores), "--max_cost", "1"]
    code, printed, _ = run("certify", *flags, "--limit", "0.25", "--risk", "cvar:0.9")
    assert code == 3
    assert "prompts like these would show it (500 were asked)" in " ".join(printed.split())
    code, printed, _ = run("certify", *flags, "--limit", "0.005", "--risk", "unsafe_rate")
    assert code == 3
    assert "a safer setting is needed" in " ".join(printed.split())


def test_several_limits_at_once(scores: Path, run: Run) -> None:
    limits = "[{risk: unsafe_rate, limit: 0.05}, {risk: mean, limit: 0.05}]"
    code, printed, _ = run("certify", "--scores", str(scores), "--limits", limits, "--max_cost=1")
    assert code == 0
    assert printed.count("kept") == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "give either --scores"),
        (["--scores", "SCORES", "--model", "m", "--limit", "1"], "give either --scores"),
        (["--scores", "SCORES"], "limit: give either it or limits"),
        (["--scores", "SCORES", "--limit", "1"], "max_cost: is not known"),
        (["--scores", "SCORES", "--limit", "1", "--max_cost", "0.5"], "outside of"),
        (["--scores", "SCORES", "--limit", "1", "--world", "vault"], "--world goes with --model"),
        (["--scores", "none.jsonl", "--limit", "1"], "none.jsonl"),
        (["--model", "no/such", "--limit", "1", "--world", "vault"], "no/such"),
        (["--model", "x", "--limit", "1", "--bounds", "y"], "bounds"),
    ],
)
def test_refusals(flags: list[str], said: str, scores: Path, run: Run) -> None:
    code, _, error = run("certify", *(str(scores) if f == "SCORES" else f for f in flags))
    assert code == 2
    assert said in " ".join(error.split())
