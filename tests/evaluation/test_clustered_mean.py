"""Wilson's interval over prompts: by hand, at its limits, and how often it covers the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from riskalign.errors import InputError
from riskalign.evaluation.intervals import few_differ, mean_interval


def test_by_hand() -> None:
    # 20 of 50 prompts won, one answer each: s² = 50/49 p(1-p), so n = 49 prompts count.
    sums = np.repeat([1.0, 0.0], [20, 30])
    found = mean_interval(sums, np.ones(50))
    z2, n, p = student.ppf(0.975, 49) ** 2, 49.0, 0.4
    assert found.value == 0.4
    # Its ends are the shares from which p is just so far: (p - q)² = z² q (1 - q) / n.
    for q in (found.low, found.high):
        assert (p - q) ** 2 == pytest.approx(z2 * q * (1 - q) / n)


def test_ties_narrow_it_where_there_are_enough_results() -> None:
    ties = mean_interval(np.repeat([1.0, 0.5, 0.0], [20, 60, 20]), np.ones(100))
    none = mean_interval(np.repeat([1.0, 0.0], [50, 50]), np.ones(100))
    assert ties.high - ties.low < 0.7 * (none.high - none.low)


@pytest.mark.parametrize(("value", "n"), [(0.0, 20), (0.5, 20), (1.0, 20), (0.5, 1), (1.0, 1)])
def test_no_spread_is_no_certainty(value: float, n: int) -> None:
    found = mean_interval(np.full(n, value), np.ones(n))
    assert found.high - found.low > 0.15
    assert found.low <= value <= found.high


def test_answers_to_one_prompt_that_agree_count_once() -> None:
    sums = np.repeat([1.0, 0.0], [25, 25])
    once = mean_interval(sums, np.ones(50))
    four = mean_interval(4 * sums, np.full(50, 4.0))
    assert (four.low, four.high) == pytest.approx((once.low, once.high))


def test_few_differ() -> None:
    assert few_differ([])
    assert few_differ([1.0] * 100 + [0.0] * 9)
    assert not few_differ([1.0] * 100 + [0.0] * 10)
    assert few_differ([0.5] * 5 + [1.0] * 4)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=60))
def test_it_holds_the_mean_stays_in_bounds_and_mirrors(scores: list[float]) -> None:
    values = np.array(scores)
    found = mean_interval(values, np.ones(len(values)))
    assert 0 <= found.low <= found.value <= found.high <= 1
    mirrored = mean_interval(1 - values, np.ones(len(values)))
    assert mirrored.low == pytest.approx(1 - found.high, abs=1e-9)


@pytest.mark.parametrize("shares", [(0.6, 0.1, 0.3), (0.1, 0.8, 0.1), (0.9, 0.05, 0.05)])
@pytest.mark.parametrize("n", [15, 60])
def test_it_covers(shares: tuple[float, float, float], n: int) -> None:
    rng = np.random.default_rng(0)
    truth = shares[0] + shares[1] / 2
    hits = 0
    for _ in range(1000):
        drawn = rng.choice([1.0, 0.5, 0.0], size=n, p=shares)
        found = mean_interval(drawn, np.ones(n))
        hits += found.low <= truth <= found.high
    # 95 % wanted; three standard errors of 1,000 draws are two points.
    assert hits >= 930


def test_refusals() -> None:
    with pytest.raises(InputError, match="at least one prompt"):
        mean_interval(np.zeros(0), np.zeros(0))
    with pytest.raises(InputError, match="confidence"):
        mean_interval(np.ones(3), np.ones(3), 1.0)
