"""Conditional value at risk (CVaR), without sorting the vocabulary."""

import torch
from torch import Tensor

from riskalign.risk.value import RiskValue

# On a CPU the search re-reads its rows about 30 times, so it takes few enough of them at once
# for a row's losses, probabilities and mask to stay in the processor's cache.
_CPU_BLOCK_ELEMENTS = 1 << 20
# Halving the widest float32 bracket reaches neighbouring floats long before; float64 needs more.
_MAX_ROUNDS = 100


def cvar(losses: Tensor, log_probs: Tensor, parameter: float) -> RiskValue:
    """Mean of the worst `1 - a` of probability mass, `a = parameter` in [0, 1).

    `min_eta eta + E_p[(L - eta)_+] / (1 - a)` (Rockafellar and Uryasev, 2000). The minimiser
    `eta` is the quantile at which the mass above first fits into `1 - a`; it is found by halving
    a bracket, which passes over the vocabulary about 30 times; sorting it costs far more.
    The worst-case density is `p / (1 - a)` above `eta`, nothing below, and the remaining share
    of the atom at `eta`. Entries closer together than float resolution count as one atom.

    Shapes: `losses` and `log_probs` are [..., V]; `log_probs` normalised, natural log.

    By hand: `p = (1/2, 1/4, 1/4)`, `L = (0, 1, 4)`, `a = 1/2` gives `(1 + 4)/2 = 2.5`, and
    `a = 0.6` splits the atom at 1: `(0.25 * 4 + 0.15 * 1)/0.4 = 2.875`.
    """
    density = log_probs.contiguous().exp()
    tail = 1.0 - parameter
    if tail < 1.0:
        vocabulary = losses.shape[-1]
        elements = _CPU_BLOCK_ELEMENTS if losses.device.type == "cpu" else losses.numel()
        rows = max(1, elements // vocabulary)
        for block, probs in zip(
            losses.reshape(-1, vocabulary).split(rows),
            density.view(-1, vocabulary).split(rows),
            strict=True,
        ):
            _to_worst_case(block, probs, tail)
    return RiskValue((density * losses).sum(-1), density)


def _to_worst_case(losses: Tensor, probs: Tensor, tail: float) -> None:
    """Turn `probs` [rows, V] in place into the worst-case density at tail mass `tail`."""
    precision = torch.finfo(losses.dtype)
    mask = torch.empty_like(losses)
    # Throughout, the mass above `low` exceeds the tail and the mass above `high` fits into it.
    low = losses.amin(-1, keepdim=True)
    low = torch.nextafter(low - precision.tiny, torch.full_like(low, -torch.inf))
    high = losses.amax(-1, keepdim=True)
    mass_low = torch.ones_like(low)
    mass_high = torch.zeros_like(low)
    for _ in range(_MAX_ROUNDS):
        resolution = torch.maximum(low.abs(), high.abs()).clamp_min_(1e-3).mul_(2 * precision.eps)
        if bool((high - low <= resolution).all()):
            break
        middle = low.lerp(high, 0.5)
        mass = torch.gt(losses, middle, out=mask).mul_(probs).sum(-1, keepdim=True)
        fits = mass <= tail
        high = torch.where(fits, middle, high)
        mass_high = torch.where(fits, mass, mass_high)
        low = torch.where(fits, low, middle)
        mass_low = torch.where(fits, mass_low, mass)
    # The bounds guard a tail that rounds to all of the mass.
    share = (tail - mass_high) / (mass_low - mass_high).clamp_min_(precision.tiny)
    share.clamp_(0.0, 1.0)
    weight = torch.gt(losses, low, out=mask).mul_(share)
    weight.add_(torch.gt(losses, high, out=torch.empty_like(losses)).mul_(1.0 - share))
    probs.mul_(weight).div_(tail)
