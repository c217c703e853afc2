"""How far stated probabilities can be taken at their word."""

import torch
from torch import Tensor


def brier_score(probabilities: Tensor, outcomes: Tensor) -> float:
    """Mean squared distance of probabilities [n] from outcomes [n] in {0, 1}; 0 is perfect.

    By hand: probabilities 0.8 and 0.4 for outcomes 1 and 0 give `(0.04 + 0.16) / 2 = 0.1`.
    Source: Brier (1950).
    """
    return float((probabilities - outcomes).square().mean())


def expected_calibration_error(probabilities: Tensor, outcomes: Tensor, bins: int = 10) -> float:
    """Mean gap between stated and observed frequency, over bins of equal width, by their size.

    `probabilities` [n] in [0, 1] are of `outcomes` [n] in {0, 1}.

    By hand: two of 0.25 that come true half the time and two of 0.95 that always do give
    `(2 * 0.25 + 2 * 0.05) / 4 = 0.15`. Source: Naeini et al. (2015).
    """
    bin_of = (probabilities * bins).long().clamp(max=bins - 1)
    gap = probabilities.new_zeros(bins).index_add(0, bin_of, probabilities - outcomes)
    return float(gap.abs().sum() / len(probabilities))


def pair_calibration(margins: Tensor, bins: int = 10) -> tuple[float, float]:
    """Brier score and calibration error of `sigmoid(margin)`, margins [n] of right order > 0.

    The probability is that of the first answer being the better one. A data set names the better
    answer first throughout, which would make the outcome the same for all; each pair counts in
    both orders instead.
    """
    first = margins.sigmoid()
    probabilities = torch.cat((first, 1 - first))
    outcomes = torch.cat((torch.ones_like(first), torch.zeros_like(first)))
    return (
        brier_score(probabilities, outcomes),
        expected_calibration_error(probabilities, outcomes, bins),
    )
