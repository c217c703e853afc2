"""Tail measures and the exact interval, by hand and against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from riskalign.errors import InputError
from riskalign.evaluation.intervals import ENOUGH_PROMPTS, binomial_interval, rare_rate_interval
from riskalign.evaluation.tails import empirical_cvar, empirical_var, tail


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


def test_binomial_interval_by_hand() -> None:
    """No event in n trials: the upper end solves (1 - p)^n = 0.025; n = 64 gives 0.05601."""
    assert binomial_interval(0, 64) == pytest.approx((0, 1 - 0.025 ** (1 / 64)))
    assert binomial_interval(64, 64) == pytest.approx((0.025 ** (1 / 64), 1))


def test_binomial_interval_inverts_the_binomial_test() -> None:
    low, high = binomial_interval(3, 40)
    assert binom.sf(2, 40, low) == pytest.approx(0.025)
    assert binom.cdf(3, 40, high) == pytest.approx(0.025)


def test_no_event_counts_prompts_not_answers() -> None:
    sizes = np.full(64, 4.0)
    assert rare_rate_interval(np.zeros(64), sizes) == binomial_interval(0, 64)
    assert rare_rate_interval(sizes, sizes) == binomial_interval(64, 64)


def test_one_event_by_hand() -> None:
    """64 prompts of 4 answers, one event: rate r = 1/256, the residuals are 1 - 4r once and -4r
    63 times, squares sum to 1 - 8r + 64·16 r² = 1 - 1/64 = 63/64; times 64/63 is 1; over
    256 r (1 - r) the estimated effect is 256/255. A tenth of the way from 4 to it."""
    events = np.zeros(64)
    events[5] = 1
    trials = 256 / (4 + (256 / 255 - 4) / ENOUGH_PROMPTS)
    expected = binomial_interval(trials / 256, trials)
    assert rare_rate_interval(events, np.full(64, 4.0)) == pytest.approx(expected)


def test_upper_end_rises_with_every_further_event() -> None:
    ends = []
    for count in range(ENOUGH_PROMPTS):
        events = np.zeros(64)
        events[:count] = 1
        interval = rare_rate_interval(events, np.full(64, 4.0))
        assert interval is not None
        ends.append(interval[1])
    assert ends[:8] == sorted(ends[:8])
    events[:ENOUGH_PROMPTS] = 1
    assert rare_rate_interval(events, np.full(64, 4.0)) is None
