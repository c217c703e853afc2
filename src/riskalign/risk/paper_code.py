"""The tail term that the Ra-DPO authors' program computes, kept for comparison only."""

import torch
from torch import Tensor

from riskalign.risk.value import RiskValue


def paper_code(losses: Tensor, log_probs: Tensor, parameter: float) -> RiskValue:
    """Sum of `p L` over the entries whose loss exceeds an unweighted quantile.

    This is what the program published with Ra-DPO (arXiv 2505.20359) computes under the name of
    CVaR at confidence level `parameter`: the quantile, at level `1 - parameter`, counts
    vocabulary entries instead of probability, and the sum is not divided by the tail's mass. It
    is no coherent risk measure: shifting every loss does not shift it as much, it can lie below
    the mean, and its `density` does not sum to 1. Use it to compare with published runs only.

    Shapes: `losses` and `log_probs` are [..., V]; `log_probs` normalised, natural log.

    By hand: `p = (0.7, 0.1, 0.1, 0.1)`, `L = (0, 1, 2, 3)` and level 0.5 have the quantile 1.5
    and the value `0.1 * 2 + 0.1 * 3 = 0.5`, where the mean is 0.6.
    """
    probs = log_probs.exp()
    size = losses.shape[-1]
    position = (1.0 - parameter) * (size - 1)
    below = int(position)
    lower = losses.kthvalue(below + 1, dim=-1, keepdim=True).values
    upper = losses.kthvalue(min(below + 2, size), dim=-1, keepdim=True).values
    density = probs.mul_(losses > lower.lerp(upper, position - below))
    return RiskValue((density * losses).sum(-1), density)


def paper_code_halves(losses: Tensor, log_probs: Tensor, parameter: float) -> RiskValue:
    """`paper_code` of each half of the vocabulary, added up: the published program's default.

    The first `V // 2` entries are one half, the rest the other; a vocabulary of one has no
    halves and is taken whole. Shapes as for `paper_code`.
    """
    middle = losses.shape[-1] // 2
    if middle == 0:
        return paper_code(losses, log_probs, parameter)
    first = paper_code(losses[..., :middle], log_probs[..., :middle], parameter)
    second = paper_code(losses[..., middle:], log_probs[..., middle:], parameter)
    density = torch.cat((first.density, second.density), dim=-1)
    return RiskValue(first.value + second.value, density)
