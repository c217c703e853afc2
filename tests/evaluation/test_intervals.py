"""Draws, the area under the ROC curve, and exact intervals: by hand, and covering the truth."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from scipy.stats import t as student

from riskalign.errors import InputError
from riskalign.evaluation import Bootstrap
from riskalign.evaluation.intervals import (
    ENOUGH_PROMPTS,
    auc_statistic,
    binomial_interval,
    few_differ,
    mean_interval,
    rare_rate_interval,
)


def test_bootstrap_settings_and_draws() -> None:
    with pytest.raises(InputError, match="n_boot: 0"):
        Bootstrap(n_boot=0)
    with pytest.raises(InputError, match="confidence"):
        Bootstrap(confidence=1.0)
    blocks = Bootstrap(n_boot=7, seed=3).draws(600_000)
    assert [block.shape[0] for block in blocks] == [3, 3, 1]
    assert all((block.sum(axis=1) == 600_000).all() for block in blocks)
    assert not np.array_equal(blocks[0][0], blocks[1][0])


def test_a_replicate_of_many_entries_makes_smaller_blocks() -> None:
    bootstrap = Bootstrap(n_boot=5)
    few, many = bootstrap.draws(10), bootstrap.draws(10, entries=1_000_000)
    assert [len(block) for block in many] == [2, 2, 1]
    assert np.array_equal(np.concatenate(few), np.concatenate(many))


def test_an_interval_is_of_the_statistics_replicates() -> None:
    values = np.arange(20.0)
    bootstrap = Bootstrap(n_boot=400, seed=1, confidence=0.8)
    found = bootstrap.interval(lambda draws: draws @ values / 20, 20)
    many = np.concatenate(bootstrap.draws(20)) @ values / 20
    assert found.value == 9.5
    assert (found.low, found.high) == tuple(np.quantile(many, [0.1, 0.9]))


@pytest.mark.parametrize(
    ("scores", "labels", "area"),
    [
        ([1, 2, 2, 3], [0, 0, 1, 1], 0.875),
        ([0, 0, 0], [0, 1, 1], 0.5),
        ([3, 2, 1], [0, 0, 1], 0.0),
        ([1, 2], [0, 1], 1.0),
    ],
)
def test_auc_by_hand_with_ties(scores: list[float], labels: list[float], area: float) -> None:
    statistic = auc_statistic(
        np.array(scores, dtype=float), np.array(labels, dtype=float), np.arange(len(scores))
    )
    assert statistic(np.ones((1, len(scores))))[0] == area


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=2))
def test_weighted_auc_counts_every_pair(cases: list[tuple[int, bool, int]]) -> None:
    scores, labels, weights = (np.array(column, dtype=float) for column in zip(*cases, strict=True))
    wins = total = 0.0
    for (s, a, u), (t, b, v) in product(cases, cases):
        if a and not b:
            total += u * v
            wins += u * v * ((s > t) + (s == t) / 2)
    found = auc_statistic(scores, labels, np.arange(len(cases)))(weights[None, :])[0]
    assert math.isnan(found) if total == 0 else found == pytest.approx(wins / total)


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


def test_mean_interval_by_hand() -> None:
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
