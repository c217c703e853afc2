"""Metrics by category and win rates, against values worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from riskalign.errors import InputError
from riskalign.evaluation import Bootstrap
from riskalign.evaluation.sets import (
    SetAnswer,
    answer_metrics,
    category_rows,
    read_answers,
)
from riskalign.evaluation.sets.measures import win_rate
from riskalign.files.atomic import write_json_lines

FEW = Bootstrap(n_boot=100)


def answers(*costs: float, category: str = "door", reward: float = 0.5) -> list[SetAnswer]:
    """Two answers to each prompt."""
    return [
        SetAnswer(f"{category}{i // 2}", category, "text", reward, cost, length=3)
        for i, cost in enumerate(costs)
    ]


def test_metrics_by_hand() -> None:
    own = answers(0, 3, -2, 0, 4, -1)
    found = {name: interval.value for name, interval in answer_metrics(own, bootstrap=FEW).items()}
    assert found == pytest.approx(
        {
            "length": 3,
            "reward": 0.5,
            "unsafe_rate": 2 / 6,
            "cost": 7 / 6,  # costs below 0 make up for nothing
            "cvar_0.95": 4,
            "worst_of_k": (3 + 0 + 4) / 3,
            "severity_weighted_cost": math.sqrt((9 + 16) / 6),
        }
    )


def test_severity_of_equal_costs_is_their_mean() -> None:
    found = answer_metrics(answers(2, 2, 2, 2), bootstrap=FEW)
    assert found["severity_weighted_cost"].value == pytest.approx(2)
    assert found["severity_weighted_cost"].low == pytest.approx(2)


def test_win_rates_by_hand() -> None:
    own, other = answers(0, 2, 1, 1), answers(1, 1, 1, 3)
    found = answer_metrics(own, other, bootstrap=FEW)
    # First prompt: 0 beats 1 twice, 2 loses twice; second: two ties and two wins.
    assert found["cost_win_rate"].value == pytest.approx((0.5 + 0.75) / 2)
    assert found["reward_win_rate"].value == 0.5
    back = answer_metrics(other, own, bootstrap=FEW)
    assert back["cost_win_rate"].value == pytest.approx(1 - found["cost_win_rate"].value)
    itself = answer_metrics(own, own, bootstrap=FEW)["cost_win_rate"]
    assert (itself.value, itself.low, itself.high) == (0.5, 0.5, 0.5)


def test_costs_below_zero_still_win() -> None:
    found = answer_metrics(answers(-3, -3, -3, -3), answers(-1, -1, -1, -1), bootstrap=FEW)
    assert found["cost_win_rate"].value == 1
    assert found["cost_win_rate"].low < 0.5  # two prompts show little
    assert found["cost"].value == 0


def test_what_was_not_measured_is_left_out() -> None:
    bare = [SetAnswer(f"p{i}", "door", "text") for i in range(3)]
    assert set(answer_metrics(bare, bare, bootstrap=FEW)) == {"length"}
    assert answer_metrics(answers(1, 1), bootstrap=FEW) == {}  # a single prompt
    assert answer_metrics([], bootstrap=FEW) == {}
    measured = [SetAnswer(f"p{i}", None, "t", kl=1.0 if i else None, srr=2.0) for i in range(3)]
    found = answer_metrics(measured, bootstrap=FEW)
    assert (found["kl"].value, found["srr"].value) == (1, 2)


def test_rows_by_category() -> None:
    own = answers(0, 1, 0, 1) + answers(5, 5, category="till")
    rows = category_rows(own, own, bootstrap=FEW)
    assert [(row.category, row.n_prompts, row.n_answers) for row in rows] == [
        ("door", 2, 4), ("till", 1, 2),
    ]  # fmt: skip
    assert rows[0].metrics["unsafe_rate"].value == 0.5
    assert rows[1].metrics == {}
    assert category_rows([SetAnswer("p", None, "text")]) == []


def test_win_rates_need_the_same_prompts() -> None:
    with pytest.raises(InputError, match="same prompts"):
        win_rate({"a": [1.0]}, {"b": [1.0]}, FEW)
    with pytest.raises(InputError, match="same prompts"):
        win_rate({}, {}, FEW)


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    own = [SetAnswer("p", None, "line\u2028end\n", None, -1.5, 4, 0.25, None)]
    path = tmp_path / "a" / "start.jsonl"
    write_json_lines(path, [{"prompt": "Hello?", **vars(answer)} for answer in own])
    assert read_answers(path) == own
