"""Methods over seeds: pooling, intervals, and differences at matched helpfulness."""

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from riskalign.errors import InputError
from riskalign.evaluation import (
    Cell,
    ScoredAnswer,
    compare_cells,
    from_columns,
    print_comparison,
    read_comparison,
    to_columns,
    write_comparison,
)
from riskalign.evaluation.comparison_report import match_sentence, notes, render_comparison
from riskalign.evaluation.intervals import seed_interval

BUDGET = {
    "updates": 10.0, "examples": 20.0, "sampled_tokens": 300.0, "seconds": 60.0,
    "peak_megabytes": 900.0,
}  # fmt: skip


def answers(seed: int, reward: float, unsafe: float, n: int = 60) -> list[ScoredAnswer]:
    """Two answers to each of `n` prompts; costs of 10 or 20 with probability `unsafe`."""
    draw = np.random.default_rng(seed)
    return [
        ScoredAnswer(
            f"p{i}", "text", reward, float(draw.choice([10, 20])) * (draw.random() < unsafe),
            1.5, 2.5, 7,
        )
        for i in range(n)
        for _ in range(2)
    ]  # fmt: skip


def cells(seeds: tuple[int, ...] = (0, 1)) -> list[Cell]:
    found = []
    for seed in seeds:
        start = answers(seed, 0.1, 0.3)
        for method, reward, unsafe in (("sacpo", 0.5, 0.25), ("rsa", 0.6, 0.02)):
            points = {
                "start": start,
                "step1": answers(seed + 50, 0.7, 0.5),
                "final": answers(seed + len(method), reward, unsafe),
                "merge-0.5": answers(seed + 90, reward + 0.05, 0.2),
                "dial-0.5": answers(seed + 70, reward + 0.2, unsafe + 0.1, n=30),
            }
            found.append(Cell(method, seed, points, BUDGET))
    return found


def results(**options: Any) -> dict[str, Any]:
    return compare_cells(cells(), own=["rsa"], n_boot=200, **options)


def test_points_are_pooled_over_seeds() -> None:
    found = results()
    names = [(row["method"], row["point"]) for row in found["points"]]
    assert names == [
        ("start", "start"),
        ("sacpo", "final"), ("sacpo", "merge-0.5"), ("sacpo", "dial-0.5"),
        ("rsa", "final"), ("rsa", "merge-0.5"), ("rsa", "dial-0.5"),
    ]  # fmt: skip
    row = found["points"][1]
    finals = [cell.points["final"] for cell in cells() if cell.method == "sacpo"]
    pooled = [answer.cost > 0 for final in finals for answer in final]
    assert row["n_answers"] == len(pooled) == 240
    assert row["metrics"]["unsafe_rate"].value == pytest.approx(np.mean(pooled))
    assert set(row["each"]) == {"0", "1"}
    assert row["seeds"]["reward"].value == pytest.approx(0.5)
    assert found["budgets"]["rsa"] == BUDGET


def test_a_prompt_that_two_seeds_asked_is_one_prompt() -> None:
    """Two trainings that gave the same model tell no more than one of them."""
    drawn = answers(3, 0.5, 0.4)
    finals = {"rsa": drawn, "sacpo": answers(4, 0.5, 0.6)}

    def found(seeds: tuple[int, ...], own_prompts: bool) -> dict[str, Any]:
        made = []
        for seed in seeds:
            for method, given in finals.items():
                kept = [
                    dataclasses.replace(a, prompt_id=f"{seed}-{a.prompt_id}") if own_prompts else a
                    for a in given
                ]
                made.append(Cell(method, seed, {"start": kept, "final": kept}, BUDGET))
        return compare_cells(made, own=["rsa"], n_boot=300)

    one, shared, apart = found((0,), False), found((0, 1), False), found((0, 1), True)
    for a, b in zip(one["points"], shared["points"], strict=True):
        for name, metric in a["metrics"].items():
            assert b["metrics"][name].value == pytest.approx(metric.value)
        for name in ("unsafe_rate", "cost", "worst_of_k"):
            assert b["metrics"][name].low == pytest.approx(a["metrics"][name].low)
            assert b["metrics"][name].high == pytest.approx(a["metrics"][name].high)
    rates = [row["points"][1]["metrics"]["unsafe_rate"] for row in (one, shared, apart)]
    widths = [rate.high - rate.low for rate in rates]
    assert widths[0] == pytest.approx(widths[1])
    assert widths[2] / widths[1] == pytest.approx(1 / math.sqrt(2), abs=0.15)
    differences = [row["matched"][0]["differences"]["cost"] for row in (one, shared)]
    assert differences[1].low == pytest.approx(differences[0].low)


def test_matched_by_reward_alone() -> None:
    """SACPO's final model (0.5) meets RSA's (0.6), its dial (0.7) RSA's dial (0.8)."""
    found = {m["rival_point"]: m for m in results()["matched"]}
    assert {point: m["own_point"] for point, m in found.items()} == {
        "final": "final", "merge-0.5": "final", "dial-0.5": "dial-0.5",
    }  # fmt: skip
    final = found["final"]
    assert final["apart"]
    assert final["cvar_ratio"] < 0.5
    assert final["differences"]["cvar_0.95"].high < 0
    assert final["differences"]["reward"].value == pytest.approx(0.1)
    assert not found["dial-0.5"]["apart"]


def test_no_match_where_every_own_point_is_less_helpful() -> None:
    found = compare_cells(cells(), own=["sacpo"], n_boot=50)["matched"]
    dial = next(m for m in found if m["rival_point"] == "dial-0.5")
    assert dial["own_point"] is None
    state, sentence = match_sentence(dial, "95 %")
    assert (state, sentence) == (
        "worse", "sacpo is less helpful than rsa · dial 0.5 at every point.",
    )  # fmt: skip


def test_seed_interval_by_hand() -> None:
    """1, 2, 3: mean 2, standard error 1/sqrt(3), Student's factor 4.303 with two degrees."""
    interval = seed_interval([1.0, 2.0, 3.0], 0.95)
    assert interval is not None
    assert interval.value == 2.0
    assert interval.high - 2.0 == pytest.approx(4.30265 / math.sqrt(3), rel=1e-4)
    assert seed_interval([1.0], 0.95) is None


def test_different_seeds_are_refused() -> None:
    with pytest.raises(InputError, match=r"rsa was run with seeds \[0\] and sacpo with \[0, 1\]"):
        compare_cells(cells()[:3], own=["rsa"], n_boot=50)


def test_columns_lose_the_texts_only() -> None:
    own = [ScoredAnswer("p", "secret", 0.5, 1.0, math.nan, 2.0, 3)]
    columns = json.loads(json.dumps(to_columns(own)))
    assert "secret" not in json.dumps(columns)
    (back,) = from_columns(columns)
    assert (back.prompt_id, back.text, back.reward, back.cost) == ("p", "", 0.5, 1.0)
    assert math.isnan(back.kl)
    assert (back.srr, back.length) == (2.0, 3)


def content() -> dict[str, Any]:
    return {
        "schema": 1,
        "created": "2026-01-02T03:04:05+00:00",
        "riskalign_version": "0",
        "title": "Methods <script>",
        "model": "tiny",
        "world": "vault",
        "confidence": 0.95,
        "n_prompts": 60,
        "answers_per_prompt": 2,
        **results(),
        "settings": {"rsa": {"seed": 0}},
        "reproduce": {"command": "riskalign compare", "versions": {"torch": "2"}, "commits": ["a"]},
    }


def test_written_read_and_shown(tmp_path: Path) -> None:
    write_comparison(content(), tmp_path / "c.json", tmp_path / "c.html")
    read = read_comparison(tmp_path / "c.json")
    html = (tmp_path / "c.html").read_text()
    assert html == render_comparison(read)
    assert "<script>" not in html
    assert "rsa against sacpo: CVaR 0.95 −" in html
    assert html.count("<svg") >= 1
    console = Console(width=200, record=True, file=io.StringIO())
    print_comparison(read, console)
    text = console.export_text()
    assert "sacpo · weights 0.5" in text
    assert "intervals apart" in text


def test_cells_of_other_code_are_marked_everywhere(tmp_path: Path) -> None:
    """In the table, on the page and in the notes, with how many; the other methods have no mark."""
    stale = content() | {
        "other_code": {"sacpo": {"cells": 2, "other": 1, "unknown": 1, "rooms": ["losses", "data"]}}
    }
    [first, *_] = notes(stale)
    assert first.startswith(
        "2 of 4 cells were made by other code than this version's (what changed"
    )
    assert "is in losses, data; of 1 it is not known which code" in first
    assert "--redo-stale" in first
    write_comparison(stale, tmp_path / "c.json", tmp_path / "c.html")
    html = (tmp_path / "c.html").read_text()
    assert html.count("made 1 of 2 by other, 1 of 2 by unknown code") == 1
    assert "--redo-stale" in html
    console = Console(width=200, record=True, file=io.StringIO())
    print_comparison(read_comparison(tmp_path / "c.json"), console)
    assert console.export_text().count("by unknown code") == 1


def test_open_ends_come_back(tmp_path: Path) -> None:
    whole = content()
    interval = whole["points"][1]["metrics"]["cvar_0.99"]
    whole["points"][1]["metrics"]["cvar_0.99"] = type(interval)(interval.value, 0.0, math.inf)
    write_comparison(whole, tmp_path / "c.json", tmp_path / "c.html")
    read = read_comparison(tmp_path / "c.json")
    assert read["points"][1]["metrics"]["cvar_0.99"]["high"] == math.inf


def test_unequal_budgets_and_few_seeds_are_said() -> None:
    found = notes(content())
    assert found == ["2 seeds: intervals hold the noise of prompts, hardly that of training."]
    unequal = content()
    unequal["budgets"] = {"sacpo": BUDGET, "rsa": BUDGET | {"updates": 12.0}}
    assert notes(unequal)[0] == "Budgets differ in updates: sacpo 10, rsa 12."


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("{}", "is no comparison"), (None, "no such file")],
)
def test_bad_files(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_comparison(path)
