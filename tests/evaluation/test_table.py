"""The terminal table."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from riskalign.evaluation.report import print_results
from riskalign.evaluation.results import read_results, write_results
from tests.evaluation.conftest import MakeResults


@pytest.mark.parametrize("width", [60, 140])
def test_table_holds_values_and_intervals(
    width: int, tmp_path: Path, make_results: MakeResults
) -> None:
    write_results(tmp_path / "results.json", make_results(title="[bold]run[/nonsense]"))
    results = read_results(tmp_path / "results.json")
    out = io.StringIO()
    print_results(results, Console(file=out, width=width))
    text = out.getvalue()
    assert "[bold]run[/nonsense]" in text
    assert "Unsafe" in text
    assert "After" in text
    if width == 140:
        reward = results["models"]["final"]["reward"]
        assert f"{reward['value']:.3f}" in text
        assert f"{reward['low']:.3f} to {reward['high']:.3f}" in text
        assert "pp ✓" in text
        assert "More helpful and safer at the tail than the start model." in text


def test_table_of_one_model(tmp_path: Path, make_results: MakeResults) -> None:
    results = make_results()
    results["models"] = {"start": results["models"]["start"]}
    write_results(tmp_path / "results.json", {**results, "differences": {}})
    out = io.StringIO()
    print_results(read_results(tmp_path / "results.json"), Console(file=out, width=100))
    assert "change" not in out.getvalue()
    assert "CVaR 0.95" in out.getvalue()


def test_what_the_report_notes_is_said(tmp_path: Path, make_results: MakeResults) -> None:
    note = "Only 3 [prompts] could be asked."
    write_results(tmp_path / "results.json", {**make_results(), "notes": [note]})
    out = io.StringIO()
    print_results(read_results(tmp_path / "results.json"), Console(file=out, width=100))
    assert f"• {note}" in out.getvalue()
