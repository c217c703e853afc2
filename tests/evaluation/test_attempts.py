"""P(any unsafe of k): by hand, against naive oracles and scipy's own, limits and coverage."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import betabinom

from riskalign.errors import InputError
from riskalign.evaluation.attempts import any_unsafe, attempts_of, fit, measure_attempts, measured
from riskalign.evaluation.intervals import Floats
from riskalign.evaluation.score import ScoredAnswer

Integers = NDArray[np.int64]


def ints(*values: int) -> Integers:
    return np.array(values, dtype=np.int64)


def draw(p: Floats, n: int, seed: int) -> tuple[Integers, Integers]:
    return np.random.default_rng(seed).binomial(n, p), np.full(len(p), n)


def test_any_unsafe_by_hand_and_in_its_limits() -> None:
    # Uniform probabilities: E[(1 - p)^k] is 1 / (k + 1).
    for k in (1, 2, 10, 1000):
        assert any_unsafe(0.5, 1 / 3, k) == pytest.approx(1 - 1 / (k + 1))
    # One prompt like the other: attempts are independent.
    assert any_unsafe(0.03, 0.0, 100) == pytest.approx(1 - 0.97**100)
    assert any_unsafe(0.03, 1e-6, 100) == pytest.approx(1 - 0.97**100, rel=1e-3)
    # Prompts that are always or never unsafe: further attempts bring nothing.
    assert any_unsafe(0.03, 1 - 1e-9, 1000) == pytest.approx(0.03, rel=1e-6)
    product = 1.0
    m, r = 0.07, 0.2
    a, b = m * (1 - r) / r, (1 - m) * (1 - r) / r
    for j in range(25):
        product *= (b + j) / (a + b + j)
    assert any_unsafe(m, r, 25) == pytest.approx(1 - product, rel=1e-12)


def test_measured_is_the_share_of_all_draws() -> None:
    assert measured(ints(1), ints(4), 2).value == pytest.approx(0.5)  # type: ignore[union-attr]
    unsafe, of = ints(0, 1, 2, 5, 3), ints(5, 6, 5, 5, 7)
    for k in range(1, 6):
        naive = []
        for u, n in zip(unsafe, of, strict=True):
            answers = [True] * u + [False] * (n - u)
            draws = list(itertools.combinations(answers, k))
            naive.append(sum(map(any, draws)) / len(draws))
        found = measured(unsafe, of, k)
        assert found is not None
        assert found.value == pytest.approx(np.mean(naive))
        assert found.low <= found.value <= found.high
    assert measured(unsafe, of, 6) is None


def test_the_fit_has_the_greatest_likelihood() -> None:
    p = np.random.default_rng(0).beta(0.3, 4.0, 200)
    of = np.random.default_rng(1).integers(1, 9, 200)
    unsafe = np.random.default_rng(2).binomial(of, p)

    def cost(logs: Floats) -> float:
        return -float(betabinom.logpmf(unsafe, of, *np.exp(logs)).sum())

    best = minimize(cost, np.log([0.3, 4.0]), method="Nelder-Mead", options={"xatol": 1e-7}).x
    a, b = np.exp(best)
    mean, overdispersion, likely = fit(unsafe, of)
    assert mean == pytest.approx(a / (a + b), rel=1e-3)
    assert overdispersion == pytest.approx(1 / (1 + a + b), rel=1e-3)
    # Those that are likely enough are so by scipy's own likelihood; the edge is reached.
    size = (1 - likely[:, 1]) / likely[:, 1]
    a, b = likely[:, 0] * size, (1 - likely[:, 0]) * size
    logs = betabinom.logpmf(unsafe, of, a[:, None], b[:, None]).sum(axis=1)
    fallen = -cost(best) - logs
    assert fallen.max() <= 1.9208 + 1e-3
    assert fallen.max() > 1.8


def test_prompts_that_are_alike_have_no_overdispersion() -> None:
    """No prompt differs more than chance makes it: the likelihood is greatest at 0."""
    unsafe, of = ints(*[1] * 40, *[0] * 20, *[2] * 20), np.full(80, 10)
    mean, overdispersion, _ = fit(unsafe, of)
    assert mean == pytest.approx(0.1, rel=1e-4)
    assert overdispersion < 1e-4
    found = measure_attempts(unsafe, of)
    for row in found.rows:
        assert row.value == pytest.approx(1 - 0.9**row.k, rel=1e-3)
    always = measure_attempts(ints(*[0] * 90, *[4] * 10), np.full(100, 4))
    assert always.rows[-1].value == pytest.approx(0.1, rel=1e-3)
    assert always.overdispersion == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("unsafe", "of", "why"),
    [
        (ints(0, 0, 0), ints(4, 4, 4), "every answer was safe"),
        (ints(4, 4), ints(4, 4), "every answer was unsafe"),
        (ints(1, 0, 0), ints(1, 1, 1), "one answer to a prompt"),
    ],
)
def test_what_cannot_be_fitted(unsafe: Integers, of: Integers, why: str) -> None:
    with pytest.raises(InputError, match=why):
        fit(unsafe, of)
    found = measure_attempts(unsafe, of)
    assert why in found.why
    assert found.mean is None
    assert all(row.value is row.low is row.high is None for row in found.rows)
    assert found.rows[0].measured is not None


def test_no_unsafe_answer_leaves_the_exact_bound() -> None:
    """Of 64 prompts, whatever the answers: (1 - q)^64 is the chance to see none."""
    found = measure_attempts(np.zeros(64, dtype=np.int64), np.full(64, 4))
    top = 1 - 0.025 ** (1 / 64)
    expected = {1: top, 2: top, 5: 1 - (1 - top) ** 1.25, 100: 1 - (1 - top) ** 25}
    for row in found.rows:
        assert row.least == 0
        if row.k in expected:
            assert row.most == pytest.approx(expected[row.k])


def test_counts_that_are_none_are_refused() -> None:
    for unsafe, of in (([], []), ([1], [0]), ([2], [1]), ([-1], [2]), ([1, 1], [2])):
        with pytest.raises(InputError):
            measure_attempts(unsafe, of)
    with pytest.raises(InputError, match="1 or more"):
        measure_attempts([1], [2], ks=(0,))


def test_of_scored_answers() -> None:
    costs = {"a": [0.0, 2.0, 0.0], "b": [0.0, 0.0, 0.0], "c": [1.0, 1.0, 0.5]}
    scored = [
        ScoredAnswer(name, "", 0.0, c, 0.0, 0.0, 1) for name, own in costs.items() for c in own
    ]
    assert attempts_of(scored) == measure_attempts([1, 0, 3], [3, 3, 3])


@pytest.mark.parametrize("share", [0.01, 0.08])
def test_intervals_hold_the_truth_where_the_model_is_right(share: float) -> None:
    a, b = 4 * share, 4 * (1 - share)
    ks, held, fitted = (1, 10, 1000), np.zeros(3), 0
    truth = [1 - math.exp(_log_beta(a, b + k) - _log_beta(a, b)) for k in ks]
    for seed in range(100):
        p = np.random.default_rng([9, seed]).beta(a, b, 100)
        found = measure_attempts(*draw(p, 4, seed), ks=ks)
        if found.why:
            continue
        fitted += 1
        for i, row in enumerate(found.rows):
            assert row.low is not None
            assert row.high is not None
            held[i] += row.low <= truth[i] <= row.high
            assert row.least <= truth[i] <= row.most
    assert fitted > 90
    assert (held / fitted >= 0.88).all(), held / fitted


def test_bounds_hold_where_the_model_is_wrong() -> None:
    """One prompt in ten is unsafe every other time, the others never: a Beta says far too much."""
    held, wrong = 0, 0
    for seed in range(60):
        p = np.where(np.random.default_rng([7, seed]).random(272) < 0.1, 0.5, 0.0)
        (row,) = measure_attempts(*draw(p, 4, seed), ks=(1000,)).rows
        held += row.least <= 0.1 <= row.most
        assert row.low is not None
        wrong += row.low > 0.1
    assert held >= 57
    assert wrong >= 40


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
