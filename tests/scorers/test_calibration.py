"""Calibration by hand, and on outcomes that follow their probabilities."""

import pytest
import torch

from riskalign.scorers.calibration import (
    brier_score,
    expected_calibration_error,
    pair_calibration,
)


def test_by_hand() -> None:
    assert brier_score(torch.tensor([0.8, 0.4]), torch.tensor([1.0, 0.0])) == pytest.approx(0.1)
    stated = torch.tensor([0.25, 0.25, 0.95, 0.95])
    came = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert expected_calibration_error(stated, came) == pytest.approx(0.15)
    certain = torch.tensor([1.0, 0.0])
    assert expected_calibration_error(certain, certain) == 0.0


def test_outcomes_that_follow_their_probabilities_are_calibrated() -> None:
    generator = torch.Generator().manual_seed(0)
    stated = torch.rand(200_000, generator=generator, dtype=torch.float64)
    came = (torch.rand(200_000, generator=generator, dtype=torch.float64) < stated).double()
    assert expected_calibration_error(stated, came) < 0.005
    assert brier_score(stated, came) == pytest.approx(1 / 6, abs=0.002)  # E[p (1 - p)]
    assert expected_calibration_error(stated.sqrt(), came) > 0.1


def test_pairs_count_in_both_orders() -> None:
    """A margin of log 3 says 3/4; with one pair in four the other way round that is right."""
    margins = torch.tensor([3.0, 3.0, 3.0, 1 / 3], dtype=torch.float64).log()
    brier, ece = pair_calibration(margins)
    assert ece == pytest.approx(0.0)
    assert brier == pytest.approx((3 * 0.25**2 + 0.75**2) / 4)
    bold = margins.sign() * torch.tensor(17 / 3, dtype=torch.float64).log()  # says 0.85
    assert pair_calibration(bold)[1] == pytest.approx(0.1)
