"""Calibration by hand, and on outcomes that follow their probabilities."""

import numpy as np
import pytest

from riskalign.scorers.metrics import both_orders, calibration


def test_by_hand() -> None:
    brier, _ = calibration(np.array([0.8, 0.4]), np.array([1.0, 0.0]))
    assert brier == pytest.approx(0.1)
    _, ece = calibration(np.array([0.25, 0.25, 0.95, 0.95]), np.array([1.0, 0.0, 1.0, 1.0]))
    assert ece == pytest.approx(0.15)
    certain = np.array([1.0, 0.0])
    assert calibration(certain, certain) == (0.0, 0.0)


def test_outcomes_that_follow_their_probabilities_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    stated = rng.uniform(size=200_000)
    came = (rng.uniform(size=200_000) < stated).astype(float)
    brier, ece = calibration(stated, came)
    assert ece < 0.005
    assert brier == pytest.approx(1 / 6, abs=0.002)  # E[p (1 - p)]
    assert calibration(np.sqrt(stated), came)[1] > 0.1


def test_pairs_count_in_both_orders() -> None:
    """A margin of log 3 says 3/4; with one pair in four the other way round that is right."""
    margins = np.log([3.0, 3.0, 3.0, 1 / 3])
    brier, ece = calibration(*both_orders(margins))
    assert ece == pytest.approx(0.0)
    assert brier == pytest.approx((3 * 0.25**2 + 0.75**2) / 4)
    bold = np.sign(margins) * np.log(17 / 3)  # says 0.85
    assert calibration(*both_orders(bold))[1] == pytest.approx(0.1)
