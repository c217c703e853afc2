"""Charts hold what they are given, are well-formed, and survive extreme values."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from riskalign.evaluation.metrics import METRICS
from riskalign.evaluation.plots import (
    PANELS,
    exceedance,
    exceedance_steps,
    frontier,
    panels_of,
    series_class,
    strip,
    swatch,
    time_bar,
    training,
)


def ends(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def parsed(svg: str) -> ET.Element:
    assert "nan" not in svg
    assert "inf" not in svg
    return ET.fromstring(svg)


def test_exceedance_steps_by_hand() -> None:
    """Costs 0, 0, 2, 2, 5: three of five exceed 0, one of five exceeds 2, none exceeds 5."""
    assert exceedance_steps([5.0, 2.0, 0.0, 2.0, 0.0]) == [
        (0.0, 0.6),
        (2.0, 0.6),
        (2.0, 0.2),
        (5.0, 0.2),
        (5.0, 0.0),
    ]
    assert exceedance_steps([0.0, 0.0]) == []


@pytest.mark.parametrize(
    "costs",
    [
        {"start": [0.0] * 5, "final": [0.0] * 5},
        {"start": [1e12, 1e-9, 0.0], "final": [3.0]},
        {"start": [4.0] * 200, "<b>": [1.0, 0.0], "dpo": [2.0]},
    ],
)
def test_exceedance_survives(costs: dict[str, list[float]]) -> None:
    models = {key: {"unsafe_rate": ends(0.1, 0.0, 0.2)} for key in costs}
    svg = parsed(exceedance({"models": models, "costs": costs, "method": None}))
    titles = [t.text for t in svg.iter("title")]
    assert len(titles) == len(costs)
    curves = [p for p in svg.iter("path") if p.get("class") == "line"]
    assert len(curves) == sum(any(sample) for sample in costs.values())


def test_an_open_end_runs_to_the_edge() -> None:
    risk = ends(4.0, 2.0, float("inf"))
    parsed(strip(METRICS["cvar_0.95"], risk, risk, "start", "final"))
    models = {"start": {"cvar_0.95": risk, "reward": ends(0.1, 0.0, 0.2)}}
    parsed(frontier({"models": models, "dial": [], "method": None}))


def test_frontier_names_every_point() -> None:
    def metrics(risk: float, reward: float) -> dict[str, Any]:
        return {
            "cvar_0.95": ends(risk, risk * 0.5, risk * 2),
            "reward": ends(reward, reward - 0.05, reward + 0.05),
        }

    models = {"start": metrics(10, 0.1), "step1": metrics(12, 0.4), "final": metrics(0, 0.3)}
    dial = [{"w": w, "metrics": metrics(12 * (1 - w / 2), 0.4 - w / 10)} for w in (1.5, 0.0, 1.0)]
    dial.append({"w": 9.0, "metrics": {}})
    svg = parsed(frontier({"models": models, "dial": dial, "method": "RSA"}))
    names = [t.text for t in svg.iter("text") if t.get("class") == "name"]
    assert names == ["w = 0", "w = 1", "w = 1.5", "Start model", "After step 1", "RSA"]


def test_training_panels_skip_what_is_not_logged() -> None:
    loss, *_, distances = PANELS
    log: list[dict[str, float | None]] = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": None},
        {"step": 3, "loss": 1},
    ]
    svg = parsed(training(log, loss[2]))
    assert len(list(svg.iter("path"))) == 1
    assert training(log, distances[2]) == ""
    assert training([], loss[2]) == ""
    parsed(training([{"step": 5, "loss": 0.0}], loss[2]))


def test_panels_are_those_that_a_method_names_or_know_a_log() -> None:
    def titles(*keys: str) -> list[str]:
        return [title for title, _, _ in panels_of([{"step": 1.0}, dict.fromkeys(keys, 1.0)])]

    assert titles("loss", "kl/chosen")[0] == "Loss"
    named = [{"title": "Multiplier", "note": "", "columns": {"lambda": "λ"}}]
    [(title, _, [curve])] = panels_of([{"loss": 1.0, "lambda": 2.0}], named)
    assert (title, curve.key, curve.name) == ("Multiplier", "lambda", "λ")
    assert titles("entropy", "epoch") == ["entropy"]
    # PPO's, in results of before methods named their panels.
    ppo = ("iteration", "loss", "reward", "cost", "lambda", "kl")
    assert titles(*ppo) == ["Reward", "Cost", "Multiplier", "KL"]


def test_small_drawings() -> None:
    parsed(strip(METRICS["unsafe_rate"], ends(0.1, 0.05, 0.2), ends(0, 0, 0), "start", "final"))
    parsed(swatch("dpo", ["start", "dpo"]))
    parsed(time_bar(0.0, 0.0))
    assert series_class("final", []) == "s-final"
    many = ["a", "b", "c", "d"]
    assert [series_class(key, many) for key in many] == [
        "s-other1",
        "s-other2",
        "s-other3",
        "s-other1",
    ]
