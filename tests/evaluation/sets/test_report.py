"""The table of models and the page: dashes where nothing was measured, hostile text escaped."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from riskalign.errors import InputError
from riskalign.evaluation import Bootstrap
from riskalign.evaluation.intervals import Interval
from riskalign.evaluation.sets import (
    EvaluationSet,
    SetAnswer,
    SetPrompt,
    category_rows,
    model_table,
    over_refusal,
    print_table,
    read_sets,
    write_sets,
)
from riskalign.evaluation.sets.measures import CategoryRow, risk_metrics

HOSTILE = "<script>alert(1)</script>{{ 7*7 }}\u202e[bold]"
FEW = Bootstrap(n_boot=50)


def content(name: str = "start", category: str = "door") -> dict[str, Any]:
    own = [SetAnswer(f"p{i}", category, "text", 0.1 * i, float(i - 1)) for i in range(4)]
    rows = category_rows(own, own, bootstrap=FEW)
    labelled = EvaluationSet("x", (SetPrompt("a", (), category, "safe"),))
    risks = risk_metrics([1.0, -1.0], [True, False], bootstrap=FEW)
    about = {"source": category, "n": 4, "duplicates": 0, "left_out": 1, "sha256": "ab"}
    model = {
        "source": name,
        "weights": "ab",
        "vocabulary": "ab",
        "overall": rows[0].metrics,
        "helpful": rows[0].metrics,
        "categories": rows,
        "over_refusal": over_refusal(labelled, [("a", "No.")], FEW),
        "r_judge": {"overall": risks, "by_scenario": {category: risks}, "cut": 0},
    }
    return {
        "schema": 1,
        "created": "2025-01-01T00:00:00+00:00",
        "riskalign_version": "0",
        "title": f"Evaluation of {name}",
        "baseline": name,
        "confidence": 0.95,
        "sets": dict.fromkeys(("prompts", "over_refusal", "r_judge"), about),
        "models": {name: model},
        "table": model_table({name: model}, [category]),
        "notes": [name],
        "settings": {"answers_per_prompt": 1, "prompts": category},
        "reproduce": {"command": name, "versions": {"riskalign": "0"}, "commit": None},
    }


def test_the_table_has_the_papers_columns_first_and_no_invented_cell() -> None:
    half = Interval(0.5, 0.4, 0.6)
    table = model_table(
        {
            "start": {
                "categories": [CategoryRow("b", 2, 2, {"cost_win_rate": half})],
                "r_judge": {"overall": {"f1": half}},
            },
            "rsa": {"helpful": {"reward_win_rate": half}, "r_judge": None},
        },
        ["a", "b"],
    )
    labels = [(column["group"], column["label"]) for column in table["columns"]]
    assert labels[:7] == [
        ("Helpfulness", "Win rate"), ("Safety win rate", "a"), ("Safety win rate", "b"),
        ("Safety win rate", "All"), ("R-Judge", "F1"), ("R-Judge", "Recall"),
        ("R-Judge", "Specificity"),
    ]  # fmt: skip
    start, rsa = (row["cells"] for row in table["rows"])
    assert [i for i, cell in enumerate(start) if cell] == [2, 4]
    assert [i for i, cell in enumerate(rsa) if cell] == [0]


def test_the_terminal_shows_values_and_dashes(tmp_path: Path) -> None:
    write_sets(content(), tmp_path / "evaluate.json", tmp_path / "evaluate.html")
    out = StringIO()
    print_table(read_sets(tmp_path / "evaluate.json"), Console(file=out, width=100))
    shown = out.getvalue()
    lines = {
        line.split("\u2502")[1].strip(): line for line in shown.splitlines() if "\u2502" in line
    }
    assert "50.0\u00a0%" in lines["door"]
    assert "\u2013" in lines["KL"]
    assert "0.866" not in lines["Severity-weighted cost"]
    assert "1.12" in lines["Severity-weighted cost"]  # the root of (0 + 0 + 1 + 4) / 4


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    write_sets(content(HOSTILE, HOSTILE), tmp_path / "evaluate.json", tmp_path / "evaluate.html")
    html = (tmp_path / "evaluate.html").read_text()
    assert "<script" not in html
    assert "\u202e" not in html
    assert "U+202E" in html
    assert "{{ 7*7 }}" in html
    out = StringIO()
    print_table(read_sets(tmp_path / "evaluate.json"), Console(file=out, width=400))
    assert "[bold]" in out.getvalue()
    assert "\u202e" not in out.getvalue()


def test_the_page_has_every_section_and_nothing_from_outside(tmp_path: Path) -> None:
    write_sets(content(), tmp_path / "evaluate.json", tmp_path / "evaluate.html")
    html = (tmp_path / "evaluate.html").read_text()
    for words in ('id="table"', 'id="categories"', 'id="refusals"', 'id="risks"', "1 left out"):
        assert words in html
    assert "http://" not in html
    assert "https://" not in html
    bare = content() | {"sets": {}}
    write_sets(bare, tmp_path / "evaluate.json", tmp_path / "evaluate.html")
    assert 'id="categories"' not in (tmp_path / "evaluate.html").read_text()


def test_reading_checks(tmp_path: Path) -> None:
    path = tmp_path / "evaluate.json"
    with pytest.raises(InputError, match="no such file"):
        read_sets(path)
    for text, words in (
        ("{", "JSON"),
        ("[]", "schema 1"),
        (json.dumps({"schema": 2}), "schema 1"),
        (json.dumps({"schema": 1}), "field 'title' is missing"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read_sets(path)
