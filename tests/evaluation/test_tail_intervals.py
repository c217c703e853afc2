"""CVaR's intervals: how often they hold the truth, and what few prompts allow."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from riskalign.evaluation import ScoredAnswer, cvar_upper_bound, empirical_cvar, summarize
from riskalign.evaluation.intervals import Interval, apart


def scored(costs: np.ndarray) -> list[ScoredAnswer]:
    return [
        ScoredAnswer(f"p{i}", "", 0.0, float(cost), 0.0, 0.0, 1)
        for i, row in enumerate(costs)
        for cost in row
    ]


def clustered(generator: np.random.Generator, n: int, severity: Callable[..., Any]) -> np.ndarray:
    tempting = generator.beta(0.6, 2.4, size=(n, 1))
    drawn = generator.random((n, 2)) < tempting
    return np.asarray(drawn * severity(size=(n, 2)))


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_coverage_of_the_studentised_interval(level: float) -> None:
    """Exponential and log-normal severities; percentiles cover the latter in 80 of 100 cases."""
    generator = np.random.default_rng(1)
    for severity in (generator.exponential, lambda size: generator.lognormal(0, 1.0, size)):
        truth = empirical_cvar(clustered(generator, 500_000, severity).ravel(), level)
        held = []
        for _ in range(120):
            answers = scored(clustered(generator, 150, severity))
            ends = summarize(answers, n_boot=300)[f"cvar_{level}"]
            held.append(ends.low <= truth <= ends.high)
        assert np.mean(held) >= 0.9  # nominal 0.95, less noise of 120 trials


def test_few_unsafe_answers_borrow_severity_and_rate() -> None:
    answers = scored(np.zeros((100, 2)))
    # Nothing seen, and nothing known of how bad it could be: nothing is ruled out.
    assert summarize(answers, n_boot=50)["cvar_0.95"].high == math.inf
    assert summarize(answers, n_boot=50, severities=[2.0, 10.0])["cvar_0.95"].high == math.inf
    seen = np.random.default_rng(0).exponential(size=60).tolist()
    alike = summarize(answers, n_boot=50, severities=seen)["cvar_0.95"].high
    assert 0.3 * np.mean(seen) < alike < 3 * np.mean(seen)
    borrowed = summarize(answers, n_boot=50, severities=[2.0, 10.0], max_cost=12.0)
    rate = borrowed["unsafe_rate"].high
    # At that rate, below 5 %, CVaR is rate * mean severity / 0.05.
    assert borrowed["cvar_0.95"].high == pytest.approx(rate * 6.0 / 0.05)
    assert borrowed["cvar_0.95"].low == borrowed["cvar_0.95"].value == 0.0
    alone = summarize(answers, n_boot=50, max_cost=8.0)
    assert alone["cvar_0.95"].high == pytest.approx(min(8.0, rate * 8.0 / 0.05))


def test_a_thin_tail_of_common_leaks_has_the_bound_for_its_end() -> None:
    costs = np.zeros((60, 2))
    costs[:24, 0] = np.linspace(1, 9, 24)
    ends = summarize(scored(costs), n_boot=200, max_cost=20.0)["cvar_0.99"]
    assert ends.high == cvar_upper_bound(list(costs), 0.99, 20.0)
    # Without a largest cost the fitted tail foresees worse than any answer seen.
    assert summarize(scored(costs), n_boot=200)["cvar_0.99"].high > costs.max()


def test_ends_stay_in_the_range_of_costs() -> None:
    costs = np.zeros((60, 2))
    costs[:24] = np.linspace(1, 9, 48).reshape(24, 2)
    for ends in (
        summarize(scored(costs), n_boot=200, max_cost=9.0)[f"cvar_{a}"] for a in (0.9, 0.95)
    ):
        assert 0 <= ends.low <= ends.value <= ends.high <= 9.0


def test_difference_of_two_intervals_by_hand() -> None:
    found = apart(Interval(5.0, 4.0, 8.0), Interval(1.0, 0.0, 3.0))
    # Down: b's lower half 1 with a's upper 3; up: b's upper 2 with a's lower 1.
    assert found.value == -4.0
    assert found.low == pytest.approx(-4 - 10**0.5)
    assert found.high == pytest.approx(-4 + 5**0.5)
