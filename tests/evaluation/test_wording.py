"""Number formats and the verdicts, also where the method loses."""

from __future__ import annotations

from typing import Any

import pytest

from riskalign.evaluation.metrics import METRICS
from riskalign.evaluation.wording import (
    amount,
    cautions,
    final_model,
    headline,
    model_names,
    model_order,
    number,
    ratio,
    span,
    state,
    tick_text,
    verdicts,
)


def ends(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def results(reward: dict[str, float], tail: dict[str, float], **more: Any) -> dict[str, Any]:
    metrics = {key: ends(1.0, 0.5, 1.5) for key in ("reward", "unsafe_rate", "cvar_0.95")}
    return {
        "models": {"start": metrics, "final": metrics},
        "differences": {"final_minus_start": {"reward": reward, "cvar_0.95": tail}},
        "method": "Tail RSA",
        "max_cost": None,
        "bounds": {},
        "costs": {},
        "confidence": 0.95,
        "n_prompts": 500,
        "answers_per_prompt": 4,
        **more,
    }


UP, DOWN, OPEN = ends(0.2, 0.1, 0.3), ends(-0.2, -0.3, -0.1), ends(0.01, -0.1, 0.1)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.12345, "0.123"),
        (-0.5, "−0.500"),
        (9.999, "10.0"),
        (12.5, "12.5"),
        (12345.0, "12,345"),
        (999_999.0, "1×10⁶"),
        (3.456e9, "3.46×10⁹"),
        (-2e-7, "−2×10⁻⁷"),
        (0.0001234, "0.000123"),
    ],
)
def test_number(value: float, shown: str) -> None:
    assert number(value) == shown


def test_units() -> None:
    assert number(0.25, signed=True) == "+0.250"
    assert tick_text(0.2) == "0.2"
    assert tick_text(20.0) == "20"
    assert tick_text(100.0) == "100"
    assert amount(METRICS["unsafe_rate"], 0.125) == "12.5\u00a0%"
    assert amount(METRICS["unsafe_rate"], -0.125, signed=True) == "−12.5\u00a0pp"
    assert amount(METRICS["cost"], 0.125) == "0.125"
    assert span(METRICS["unsafe_rate"], ends(0.1, 0.05, 0.2)) == "5.00 to 20.0\u00a0%"
    assert span(METRICS["cost"], ends(0.1, -0.05, 0.2), signed=True) == "−0.0500 to +0.200"


def test_ratio() -> None:
    assert ratio(0.1, 0.31) == "3.10×"
    assert ratio(10.0, 0.5) == "−95\u00a0%"
    assert ratio(10.0, 0.01) == "−99.9\u00a0%"
    assert ratio(1e9, 0.01) == "−99.9\u00a0%"
    assert ratio(10.0, 0.0) == "−100\u00a0%"
    assert ratio(0.0, 1.0) == ratio(2.0, 2.0) == ""


def test_state_knows_which_way_is_better() -> None:
    assert state(METRICS["reward"], UP) == state(METRICS["cvar_0.95"], DOWN) == "better"
    assert state(METRICS["reward"], DOWN) == state(METRICS["cvar_0.95"], UP) == "worse"
    assert state(METRICS["reward"], OPEN) == state(METRICS["kl"], UP) == "unclear"


@pytest.mark.parametrize(
    ("reward", "tail", "sentence"),
    [
        (UP, DOWN, "More helpful and safer at the tail than the start model."),
        (UP, UP, "More helpful, but worse at the tail than the start model."),
        (UP, OPEN, "More helpful than the start model; no change at the tail shown."),
        (DOWN, DOWN, "Less helpful, but safer at the tail than the start model."),
        (DOWN, UP, "Less helpful and worse at the tail than the start model."),
        (DOWN, OPEN, "Less helpful than the start model; no change at the tail shown."),
        (OPEN, DOWN, "Safer at the tail than the start model; no change in helpfulness shown."),
        (OPEN, UP, "Worse at the tail than the start model; no change in helpfulness shown."),
        (
            OPEN,
            OPEN,
            "No difference from the start model is shown, in helpfulness or at the tail.",
        ),
    ],
)
def test_headline(reward: dict[str, float], tail: dict[str, float], sentence: str) -> None:
    assert headline(results(reward, tail)) == sentence


def test_headline_without_a_comparison() -> None:
    only_start = results(UP, DOWN, models={"start": {}})
    assert headline(only_start) == "No comparison with the start model is recorded."
    assert final_model(only_start) is None


def test_verdicts_say_what_was_lost() -> None:
    found = verdicts(
        results(
            DOWN,
            DOWN,
            models={
                "start": {"reward": ends(0.4, 0.3, 0.5), "cvar_0.95": ends(10, 5, 15)},
                "final": {"reward": ends(0.2, 0.1, 0.3), "cvar_0.95": ends(10, 5, 15)},
            },
        )
    )
    assert [kind for kind, _ in found] == ["worse", "better"]
    assert found[0][1].startswith("Mean reward fell from 0.400 to 0.200 (−50\u00a0%; 95\u00a0%")


def test_cautions_name_thin_evidence() -> None:
    rates = {"unsafe_rate": ends(0.0, 0.0, 0.056)}
    notes = cautions(
        results(
            UP,
            OPEN,
            models={"start": rates, "final": rates},
            costs={"start": [0.0] * 256, "final": [3.0] + [0.0] * 255},
            n_prompts=64,
        )
    )
    assert "cannot show a gain in safety" in notes[0]
    assert "Tail RSA (1 of 256; its unsafe rate may be as high as 5.60\u00a0%)" in notes[1]
    assert "CVaR 0.99 rests on the worst 2.56 of 256 answers" in notes[2]
    assert cautions(results(UP, DOWN)) == []
    bounded = results(UP, DOWN, max_cost=25.0, bounds={"final": {"cvar_0.95": 11.25}})
    [note] = cautions(bounded)
    assert "costs up to 25.0, CVaR 0.95 of Tail RSA is at most 11.2" in note


def test_an_open_end_is_said() -> None:
    endless = results(UP, DOWN, models={"start": {"cvar_0.99": ends(4.0, 2.0, float("inf"))}})
    assert span(METRICS["cvar_0.99"], ends(4.0, 2.0, float("inf"))) == "2.00 to \u221e"
    assert number(float("-inf")) == "\u2212\u221e"
    [note] = cautions(endless)
    assert note.startswith("No upper end can be given for CVaR 0.99")
    assert "max_cost" in note


def test_model_order() -> None:
    assert model_order({"final": 0, "dpo": 0, "start": 0, "step1": 0}) == [
        "start",
        "step1",
        "dpo",
        "final",
    ]


def test_the_last_model_is_called_by_its_method() -> None:
    models: dict[str, Any] = {key: {} for key in ("start", "step1", "merge-0.5", "final")}
    names = model_names({"models": models, "method": "SACPO"})
    assert list(names.values()) == ["Start model", "After step 1", "Weights at 0.5", "SACPO"]
    assert model_names({"models": models, "method": None})["final"] == "Final model"
    assert model_names({"models": {"start": {}, "dpo": {}}, "method": "SACPO"}) == {
        "start": "Start model",
        "dpo": "dpo",
    }
