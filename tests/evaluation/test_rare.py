"""Weights and estimates by hand, against plain sums, and what is refused."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2

from riskalign.errors import InputError
from riskalign.evaluation.rare import (
    balance_weights,
    effective_size,
    rare_harm,
    weighted_cvar,
    weighted_mean,
)
from riskalign.evaluation.tails import empirical_cvar

Floats = NDArray[np.float64]


def drawn(prompts: int, counts: tuple[int, ...], seed: int = 0) -> tuple[Floats, Floats]:
    """Costs and log probabilities of answers 0 (safe), 1 (cost 2) and 2 (cost 10).

    Setting j draws them with probabilities that grow for the unsafe ones.
    """
    generator = np.random.default_rng(seed)
    probs = np.array([[0.97, 0.02, 0.01], [0.6, 0.25, 0.15], [0.3, 0.4, 0.3]])[: len(counts)]
    picked = np.concatenate(
        [
            generator.choice(3, size=(prompts, n), p=own)
            for n, own in zip(counts, probs, strict=True)
        ],
        axis=1,
    )
    return np.array([0.0, 2.0, 10.0])[picked], np.log(probs.T)[picked]


def naive(
    costs: Floats, log_probs: Floats, counts: tuple[int, ...], level: float
) -> tuple[float, float]:
    """Unsafe rate and CVaR, answer by answer, eta by a search of all costs and 0."""
    rate, answers = 0.0, []
    M, k = costs.shape
    for m in range(M):
        for i in range(k):
            probs = [math.exp(each) for each in log_probs[m, i]]
            mixture = sum(n / k * p for n, p in zip(counts, probs, strict=True))
            answers.append((float(costs[m, i]), probs[0] / mixture))
            rate += (costs[m, i] > 0) * answers[-1][1] / (M * k)
    cvar = min(
        eta + sum(w * max(c - eta, 0) for c, w in answers) / (M * k) / (1 - level)
        for eta in {0.0, *(c for c, _ in answers)}
    )
    return rate, cvar


def test_weights_by_hand() -> None:
    # Probabilities 0.1 and 0.4, half of the answers from each: 0.1 / 0.25; alone: 0.3 / 0.15.
    log_probs = np.log([[[0.1, 0.4], [0.3, 1e-300]]])
    assert balance_weights(log_probs, [1, 1]) == pytest.approx(np.array([[0.4, 2.0]]))
    # An answer that the target cannot give weighs nothing, however unlike the numbers.
    far = np.array([[[-2000.0, -1.0]] * 2])
    assert balance_weights(far, [1, 1]).max() < 1e-300


@pytest.mark.parametrize("counts", [(4,), (1, 3), (2, 1, 3)])
@pytest.mark.parametrize("level", [0.0, 0.9, 0.95, 0.99])
def test_estimates_are_the_plain_sums(counts: tuple[int, ...], level: float) -> None:
    costs, log_probs = drawn(200, counts)
    found = rare_harm(costs, log_probs, counts, [level])
    rate, cvar = naive(costs, log_probs, counts, level)
    assert found.unsafe_rate.value == pytest.approx(rate, abs=1e-12)
    assert found.cvar[level].value == pytest.approx(cvar, rel=1e-9)
    assert found.largest_weight <= sum(counts) / counts[0]
    assert found.effective >= found.mean_weight * found.answers * counts[0] / sum(counts)
    for ends in (found.unsafe_rate, found.cvar[level]):
        assert 0 <= ends.low <= ends.value <= ends.high


def test_settings_that_are_the_target_give_plain_estimates() -> None:
    costs, log_probs = drawn(300, (4,))
    alike = np.repeat(log_probs, 3, axis=-1)
    found = rare_harm(costs, alike, (1, 1, 2), [0.95, 0.99])
    assert found.unsafe_rate.value == (costs > 0).mean()
    for level, ends in found.cvar.items():
        assert ends.value == pytest.approx(empirical_cvar(costs.ravel(), level), rel=1e-12)
    assert (found.mean_weight, found.largest_weight) == (1.0, 1.0)
    assert found.effective == found.answers == found.worth == 1200
    assert found.effective_unsafe == (costs > 0).sum()
    assert found == rare_harm(costs, log_probs, (4,), [0.95, 0.99])


def test_the_mean_over_repeats_is_the_truth_and_few_intervals_miss_it() -> None:
    counts, missed, values = (1, 2, 1), 0, []
    for seed in range(400):
        found = rare_harm(*drawn(60, counts, seed), counts, [0.9])
        values.append((found.unsafe_rate.value, found.cvar[0.9].value, found.mean_weight))
        missed += not found.unsafe_rate.low <= 0.03 <= found.unsafe_rate.high
    # CVaR 0.9 of a cost above 0 with probability 0.03: (0.02 * 2 + 0.01 * 10) / 0.1.
    error = np.std(values, axis=0) / 20
    assert (np.abs(np.mean(values, axis=0) - [0.03, 1.4, 1.0]) < 3.5 * error).all()
    assert missed <= 32


def test_the_interval_of_plain_events_is_poissons() -> None:
    parts = np.zeros(100_000)
    parts[:12] = 1.0
    found = weighted_mean(parts, 1.0)
    low, high = chi2.ppf(0.025, 24) / 2, chi2.ppf(0.975, 26) / 2
    assert (found.low, found.high) == pytest.approx((low / 1e5, high / 1e5), rel=1e-3)


def test_without_an_event_the_upper_end_is_what_prompts_rule_out() -> None:
    found = weighted_mean(np.zeros(500), 1.0)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(-math.log(0.025) / 500)
    # Light events in few prompts do not pass for all that there can be.
    few = np.zeros(500)
    few[:3] = 1e-3
    assert found.high / 10 < weighted_mean(few, 1.0).high < found.high


def test_cvar_without_harm_needs_the_largest_cost() -> None:
    costs, weights = np.zeros((50, 4)), np.ones((50, 4))
    open_ended, size = weighted_cvar(costs, weights, 0.95)
    assert (open_ended.value, open_ended.high, size) == (0.0, math.inf, 0.0)
    known, _ = weighted_cvar(costs, weights, 0.95, max_cost=3.0)
    assert known.high == 3.0
    many, _ = weighted_cvar(np.zeros((50_000, 4)), np.ones((50_000, 4)), 0.95, max_cost=3.0)
    assert many.high == pytest.approx(-math.log(0.025) / 50_000 * 3 / 0.05)
    # All answers alike: nothing varies, and nothing is above.
    same, _ = weighted_cvar(np.full((50, 4), 2.0), weights, 0.95, max_cost=3.0)
    assert (same.value, same.low) == (2.0, 2.0)


def test_effective_size_by_hand() -> None:
    assert effective_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_size(np.zeros(4)) == 0.0


def test_what_is_refused() -> None:
    costs, log_probs = drawn(50, (1, 3))
    with pytest.raises(InputError, match=r"CVaR 0.999 needs 1000.*evaluation\.prompts"):
        rare_harm(costs, log_probs, (1, 3), [0.999])
    with pytest.raises(InputError, match="do not fit"):
        rare_harm(costs, log_probs, (1, 2))
    with pytest.raises(InputError, match="do not fit"):
        rare_harm(costs, log_probs, (0, 4))
    with pytest.raises(InputError, match="2 prompts"):
        rare_harm(costs[:1], log_probs[:1], (1, 3))
    with pytest.raises(InputError, match="a model is broken"):
        rare_harm(costs, log_probs * np.nan, (1, 3))
    wrong = log_probs + np.array([0.7, 0.0])  # the target's probabilities twice too large
    with pytest.raises(InputError, match=r"mean is .* must be 1.*bf16"):
        rare_harm(costs, wrong, (1, 3), [0.9])
