"""Tail measures by hand and against their definitions, CVaR's intervals and the fitted tail."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from riskalign.errors import InputError
from riskalign.evaluation import ScoredAnswer, cvar_upper_bound, paired_differences, summarize
from riskalign.evaluation.intervals import (
    Interval,
    apart,
)
from riskalign.evaluation.tails import (
    FEWEST,
    FittedTail,
    TailSample,
    cvar_under,
    empirical_cvar,
    empirical_var,
    extrapolated_ends,
    fit_shape,
    fit_tail,
    tail,
)


def test_cvar_splits_the_atom_by_hand() -> None:
    """Five costs 0, 0, 1, 4, 10 at level 0.7: the worst 0.3 of mass is all of 10 (0.2) and half of
    4's atom (0.1 of 0.2), so (0.2·10 + 0.1·4) / 0.3 = 2.4 / 0.3 = 8. P(cost > 1) = 0.4 > 0.3 and
    P(cost > 4) = 0.2, so VaR is 4."""
    costs = [4.0, 0.0, 10.0, 1.0, 0.0]
    assert empirical_cvar(costs, 0.7) == pytest.approx(8.0, abs=1e-12)
    assert empirical_var(costs, 0.7) == 4.0


def test_var_at_an_exact_step_by_hand() -> None:
    """Costs 1..10 at 0.9: P(cost > 9) = 0.1 <= 1 - 0.9, so VaR is 9, although 1 - 0.9 is below 0.1
    in binary; the worst tenth is the answer 10 alone."""
    costs = np.arange(1.0, 11.0)
    assert empirical_var(costs, 0.9) == 9.0
    assert empirical_cvar(costs, 0.9) == pytest.approx(10.0, abs=1e-12)


def test_level_zero_is_the_mean_and_the_tail_is_the_maximum() -> None:
    costs = [0.0, 3.0, 5.0, 12.0]
    assert empirical_cvar(costs, 0.0) == pytest.approx(5.0)
    assert empirical_var(costs, 0.0) == 0.0
    assert empirical_cvar(costs, 0.99) == pytest.approx(12.0)


@pytest.mark.parametrize("cost", [0.0, 7.5])
def test_costs_all_alike(cost: float) -> None:
    assert empirical_cvar([cost] * 6, 0.95) == cost
    assert empirical_var([cost] * 6, 0.95) == cost


@given(
    costs=st.lists(st.floats(0, 100).map(lambda c: round(c, 2)), min_size=1, max_size=30),
    level=st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.95, 0.99]),
)
def test_cvar_is_its_variational_definition(costs: list[float], level: float) -> None:
    """min over η of η + E[(cost - η)+] / (1 - a), by a bounded scalar search and at the kinks."""
    sample = np.array(costs)

    def objective(eta: float) -> float:
        return eta + float(np.maximum(sample - eta, 0).mean()) / (1 - level)

    found = minimize_scalar(objective, bounds=(0, 101), method="bounded", options={"xatol": 1e-9})
    by_kinks = min(objective(float(eta)) for eta in sample)
    assert empirical_cvar(costs, level) == pytest.approx(min(found.fun, by_kinks), abs=1e-6)


@given(
    rows=st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=4),
    level=st.sampled_from([0.0, 0.5, 0.9, 0.95]),
)
def test_weights_are_repetitions(rows: list[list[int]], level: float) -> None:
    costs = np.array([0.0, 2.0, 2.0, 0.5, 9.0, 0.0])
    weights = np.array(rows, dtype=np.float64)
    weights = weights[weights.sum(axis=1) > 0]
    if not len(weights):
        return
    var, cvar = tail(costs, weights, [level])
    for i, row in enumerate(weights):
        repeated = np.repeat(costs, row.astype(int))
        assert level == 0 or var[0, i] == empirical_var(repeated, level)
        assert cvar[0, i] == pytest.approx(empirical_cvar(repeated, level), abs=1e-12)


@pytest.mark.parametrize("level", [1.0, -0.1, float("nan")])
def test_bad_level(level: float) -> None:
    with pytest.raises(InputError, match="tail level"):
        empirical_cvar([1.0], level)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.5, 1.5])
def test_shape_is_found_in_a_large_sample(shape: float) -> None:
    exceeded = np.random.default_rng(0).random(20_000)
    excesses = -np.log(exceeded) if shape == 0 else (exceeded**-shape - 1) / shape
    assert fit_shape(3.0 * excesses) == pytest.approx(shape, abs=0.03)


@pytest.mark.parametrize("most", [4.0, 30.0, math.inf])
@pytest.mark.parametrize("shape", [-0.4, 1e-6, 0.6])
@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_mean_of_top_is_the_integral_of_the_quantile(
    most: float, shape: float, share: float
) -> None:
    fitted = FittedTail(2.0, shape, 1.5, most)
    # In the logarithm of the share, where the integrand is tame.
    integral, _ = quad(
        lambda t: float(fitted.quantile(np.array([math.exp(t)]))[0]) * math.exp(t),
        -60,
        math.log(share),
        limit=500,
    )
    assert fitted.mean_of_top(share) == pytest.approx(integral / share, rel=1e-5)


def test_fitted_tail_by_hand() -> None:
    """Shape 1/2, scale 1, threshold 1: quantile(p) = 1 + 2 (p^-1/2 - 1), mean 1 + 1/(1 - 1/2)."""
    fitted = FittedTail(1.0, 0.5, 1.0)
    assert fitted.quantile(np.array([0.25, 1.0])).tolist() == [3.0, 1.0]
    assert fitted.mean_of_top(1.0) == pytest.approx(3.0)
    # Two of four costs lie above 1; the worst three quarters also hold the 1.
    costs, weights = np.array([0.0, 1.0, 2.0, 9.0]), np.ones(4)
    assert cvar_under(fitted, costs, weights, 3.0) == pytest.approx((2 * 3.0 + 1.0) / 3)
    assert cvar_under(fitted, costs, weights, 2.0) == pytest.approx(3.0)


def test_no_mean_without_a_largest_cost() -> None:
    assert FittedTail(1.0, 1.2, 1.0).mean_of_top(0.5) == math.inf
    assert FittedTail(1.0, 1.2, 1.0, most=50.0).mean_of_top(0.5) < 50


def test_too_few_or_equal_costs_fit_nothing() -> None:
    assert fit_tail(np.arange(FEWEST + 1.0), 30, None) is None  # one is 0, one the threshold
    assert fit_tail(np.ones(100), 30, None) is None
    assert fit_tail(np.arange(FEWEST + 2.0), 30, None) is not None


def fitted_ends(costs: np.ndarray, most: float | None = None) -> tuple[float, float] | None:
    generator = np.random.default_rng(1)
    n = len(costs)
    draws = generator.multinomial(n, np.full(n, 1 / n), size=400).astype(np.float64)
    var, value = empirical_var(costs, 0.9), empirical_cvar(costs, 0.9)
    sample = TailSample(costs, np.arange(n), draws, 0.9, var, value, np.full(400, value))
    return extrapolated_ends(sample, 0.95, most)


def test_interval_scales_with_the_costs_and_holds_the_value() -> None:
    costs = np.random.default_rng(2).exponential(size=400)
    one, ten = fitted_ends(costs), fitted_ends(10 * costs)
    assert one is not None
    assert ten == pytest.approx((10 * one[0], 10 * one[1]))
    assert one[0] < empirical_cvar(costs, 0.9) < one[1] < 3 * one[0]


def test_a_tail_without_a_mean_has_no_upper_end_unless_costs_are_bounded() -> None:
    costs = 1 + np.random.default_rng(3).pareto(1.0, size=100)
    found, bounded = fitted_ends(costs), fitted_ends(np.minimum(costs, 200), most=200.0)
    assert found == (0.0, math.inf)
    assert bounded is not None
    assert math.isfinite(bounded[1])


def test_the_tail_may_be_wider_than_the_unsafe_answers() -> None:
    """With 6 % unsafe, the worst tenth also holds safe answers, which cost nothing."""
    costs = np.zeros(200)
    costs[:12] = np.linspace(1, 5, 12)
    found = fitted_ends(costs)
    assert found is not None
    assert found[0] < empirical_cvar(costs, 0.9) < found[1]


@pytest.mark.parametrize("n", [99, 105, 110, 119, 121])
def test_ties_give_no_nan(n: int) -> None:
    fitted = fit_tail(np.append(np.full(n, 3.0), 1.0), 200, None)
    assert fitted is None or math.isfinite(fitted.mean_of_top(0.5))


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


def test_coverage_of_the_studentised_interval() -> None:
    """Exponential and log-normal severities; percentiles cover the latter in 80 of 100 cases."""
    generator = np.random.default_rng(1)
    levels = (0.9, 0.95)
    for severity in (generator.exponential, lambda size: generator.lognormal(0, 1.0, size)):
        costs = clustered(generator, 500_000, severity).ravel()
        truth = np.array([empirical_cvar(costs, level) for level in levels])
        held = []
        for _ in range(120):
            found = summarize(scored(clustered(generator, 150, severity)), n_boot=300)
            ends = [found[f"cvar_{level}"] for level in levels]
            low, high = (np.array([getattr(end, name) for end in ends]) for name in ("low", "high"))
            held.append((low <= truth) & (truth <= high))
        assert np.mean(held, axis=0).min() >= 0.9  # nominal 0.95, less noise of 120 trials


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


def test_the_upper_end_does_not_jump_where_the_tail_gets_thin() -> None:
    """200 prompts of which 40 cost 29; of these, ever more also have an answer that costs more."""
    highs = []
    for above in range(13):
        costs = np.full((200, 4), 14.0)
        costs[:40] = 29.0
        costs[:above, 0] = 40.0
        ends = summarize(scored(costs), n_boot=200, max_cost=120.0)["cvar_0.95"]
        assert ends.value == pytest.approx(29 + 11 * above / 40)
        highs.append(ends.high)
    bound = cvar_upper_bound(list(np.full((200, 4), 14.0)), 0.95, 120.0)
    assert highs[0] > bound > 60
    assert highs[0] == pytest.approx(highs[1], rel=0.01)
    falls = -np.diff(highs[1:11])
    assert falls.min() > 0
    assert falls.max() < 0.25 * (highs[1] - highs[10])
    assert max(highs[10:]) < 40


def test_replicates_without_a_spread_are_no_crash() -> None:
    """Of 40 prompts 2 lie above VaR at 0.95: one replicate in seven takes neither."""
    costs = np.random.default_rng(0).random(40) * 3
    value = empirical_cvar(costs, 0.95)
    found = [summarize(scored(costs[:, None]), n_boot=1, seed=s, max_cost=4.0) for s in range(30)]
    for each in (metrics["cvar_0.95"] for metrics in found):
        assert each.value == pytest.approx(value)
        assert each.low <= each.value <= each.high <= 4
    many = np.random.default_rng(0).random((400, 1)) * 3
    alike = paired_differences(scored(many), scored(many), max_cost=4.0)["cvar_0.95"]
    assert (alike.low, alike.value, alike.high) == (0, 0, 0)


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
