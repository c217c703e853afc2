"""Unsafe rates behind a scorer's errors: by hand, limits, naive oracles and coverage."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from riskalign.errors import InputError
from riskalign.evaluation.corrected import (
    Counts,
    corrected_rate,
    corrected_rates,
    counts_of,
    parse_counts,
    rogan_gladen,
    upper,
)
from riskalign.evaluation.intervals import Interval, binomial_interval, mean_interval

KNOWN: Counts = (10**12, 10**12)


def test_counts_are_parsed() -> None:
    assert parse_counts("45/50") == (45, 50)
    assert parse_counts(" 0 / 7 ") == (0, 7)
    for text in ("", "45", "0.9", "51/50", "0/0", "-1/5", "1/2/3", "a/b", "9" * 20 + "/1"):
        with pytest.raises(InputError, match=r"--sensitivity is .*45/50"):
            parse_counts(text, "--sensitivity")


def test_rogan_gladen_against_answers_written_out() -> None:
    assert rogan_gladen(0.26, 0.9, 0.9) == pytest.approx(0.2)
    for unsafe, caught, safe, alarms in ((20, 18, 80, 8), (1, 1, 99, 30), (50, 30, 50, 1)):
        called = (caught + alarms) / (unsafe + safe)
        found = rogan_gladen(called, caught / unsafe, 1 - alarms / safe)
        assert found == pytest.approx(unsafe / (unsafe + safe))
    with pytest.raises(InputError, match="tells nothing"):
        rogan_gladen(0.5, 0.4, 0.6)


def test_a_scorer_known_to_be_right_leaves_the_plain_rate() -> None:
    plain = Interval(0.12, 0.07, 0.19)
    found = corrected_rate(plain, KNOWN, KNOWN)
    for end in ("value", "low", "high"):
        assert getattr(found, end) == pytest.approx(getattr(plain, end), abs=1e-9)
    assert upper(0.19, KNOWN, KNOWN, 0.05) == pytest.approx(0.19, abs=1e-9)


def test_one_uncertain_part_moves_the_rate_to_its_own_ends() -> None:
    """By hand: with q and sp known, p runs over q / se for se in its exact interval."""
    found = corrected_rate(Interval(0.2, 0.2, 0.2), (45, 50), KNOWN)
    low, high = binomial_interval(45, 50)
    assert found.value == pytest.approx(0.2 / 0.9)
    assert found.low == pytest.approx(0.2 / high)
    assert found.high == pytest.approx(0.2 / low)


def test_clipped_and_open_intervals() -> None:
    below = corrected_rate(Interval(0.02, 0.01, 0.04), (45, 50), (180, 200))
    assert below.value == below.low == 0
    assert 0 <= below.high < 0.1
    # Five of eight right, five of eight wrong: it may well be a coin.
    assert corrected_rate(Interval(0.5, 0.4, 0.6), (5, 8), (5, 8)) == Interval(0.5, 0.0, 1.0)


def naive_low(right: int, of: int, miss: float) -> float:
    """The least rate at which so many or more are no rarer than `miss`, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if binom.sf(right - 1, of, middle) > miss else (middle, high)
    return low


def test_upper_by_hand_and_naively() -> None:
    never_wrong = 0.025 ** (1 / 100)
    assert upper(0.1, (100, 100), (100, 100), 0.05) == pytest.approx(0.1 / never_wrong)
    assert upper(0.1, (100, 100), (100, 100), 0.05) == pytest.approx(0.1038, abs=5e-5)
    assert upper(0.1, (100, 100), None, 0.05) == pytest.approx(0.1 / 0.05 ** (1 / 100))
    for q in (0.2, 0.4, 0.6):
        se, alarms = naive_low(45, 50, 0.01), naive_low(20, 200, 0.01)
        found = upper(q, (45, 50), (180, 200), 0.02)
        assert found == pytest.approx((q - alarms) / (se - alarms), rel=1e-6)
        # It is the largest rate that any such scorer could hide.
        worst = max(
            (q - f) / (s - f) for s in np.linspace(se, 1, 30) for f in np.linspace(alarms, 0.15, 30)
        )
        assert found == pytest.approx(worst)
    assert upper(0.99, (45, 50), (180, 200), 0.02) == 1.0


def test_upper_refuses_what_bounds_nothing() -> None:
    with pytest.raises(InputError, match="from chance"):
        upper(0.3, (5, 8), (2, 8), 0.05)
    with pytest.raises(InputError, match="from chance"):
        upper(0.3, (0, 8), None, 0.05)
    with pytest.raises(InputError, match="false alarms alone"):
        upper(0.01, (45, 50), (100, 200), 0.05)
    assert upper(0.01, (45, 50), None, 0.05) < 0.02
    for q, miss in ((1.5, 0.05), (math.nan, 0.05), (0.1, 0.0), (0.1, 1.0)):
        with pytest.raises(InputError, match="is none"):
            upper(q, (45, 50), None, miss)


def test_what_results_hold() -> None:
    verdicts = {
        "unsafe_called_unsafe": 45,
        "unsafe_called_safe": 5,
        "safe_called_safe": 180,
        "safe_called_unsafe": 20,
    }
    counts = counts_of(verdicts)
    assert counts == [(45, 50), (180, 200)]
    assert counts_of({}) == []
    assert counts_of({"safe_called_safe": 3}) == []
    plain = Interval(0.26, 0.2, 0.33)
    found = corrected_rates({"start": {"unsafe_rate": plain}}, counts)
    assert found["unsafe_rate"]["start"] == corrected_rate(plain, counts[0], counts[1])
    assert found["why"] == ""
    found = corrected_rates({"start": {"unsafe_rate": plain}}, [(1, 10), (3, 10)])
    assert found["unsafe_rate"] == {}
    assert "tells nothing" in found["why"]


@pytest.mark.parametrize("prevalence", [0.0, 0.05, 0.3])
def test_intervals_and_bounds_hold_the_truth(prevalence: float) -> None:
    """100 prompts, 4 answers each, sensitivity 0.85 of 60 labels, specificity 0.92 of 200."""
    generator = np.random.default_rng(3)
    held, below, trials = 0, 0, 400
    for _ in range(trials):
        p = generator.beta(3 * prevalence + 1e-12, 3 * (1 - prevalence), 100)
        unsafe = generator.binomial(4, p)
        called = generator.binomial(unsafe, 0.85) + generator.binomial(4 - unsafe, 0.08)
        caught, passed = int(generator.binomial(60, 0.85)), int(generator.binomial(200, 0.92))
        four = np.full(100, 4.0)
        plain = mean_interval(called.astype(float), four)
        found = corrected_rate(plain, (caught, 60), (passed, 200))
        held += found.low <= prevalence <= found.high
        top = mean_interval(called.astype(float), four, 0.95).high  # missed by 2.5 %
        try:
            below += upper(top, (caught, 60), (passed, 200), 0.025) >= prevalence
        except InputError:
            below += 1
    assert held / trials >= 0.92
    assert below / trials >= 0.95
