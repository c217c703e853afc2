"""Risk measures of a loss under a discrete distribution, and what they return.

Shapes of all: `losses` and `log_probs` are [..., V]; `log_probs` normalised, natural log.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class RiskValue(NamedTuple):
    """A risk and the worst-case density that attains it.

    Shapes: `value` is [...], `density` is [..., V].

    For a coherent measure, and for the entropic one, `density` sums to 1 over V. With
    `losses = log_probs - log_policy`, the derivative of `value` with respect to the policy's
    logits is `density.sum(-1) * policy - density`, whatever the measure.
    """

    value: Tensor
    density: Tensor


def mean(losses: Tensor, log_probs: Tensor) -> RiskValue:
    """Expectation `E_p[L]`; its worst-case density is `p` itself.

    With `L = log p - log policy` this is the forward Kullback-Leibler divergence, the
    sequential KL of TDPO (arXiv 2404.11999).

    By hand: `p = (1/4, 3/4)`, `L = (4, 0)` gives `1`.
    """
    probs = log_probs.exp()
    return RiskValue((probs * losses).sum(-1), probs)


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


def entropic(losses: Tensor, log_probs: Tensor, parameter: float) -> RiskValue:
    """Entropic risk `(1/mu) log E_p[exp(mu L)]`, `mu = parameter > 0`.

    The worst-case density is the exponentially tilted `q ∝ p exp(mu L)`. With
    `L = log p - log policy` the value is the Rényi divergence of order `1 + mu` from the
    policy to `p`. It tends to the expectation as `mu -> 0`, and is computed from log
    probabilities, so that an entry whose probability underflows still counts for what it weighs.
    In float32 its rounding error is about `1e-7 / mu`: choose `mean` over a tiny `mu`.

    By hand: `p = (1/2, 1/2)`, `L = (log 3, 0)`, `mu = 1` gives `log((3 + 1)/2) = log 2` and
    `q = (3/4, 1/4)`.
    """
    tilted = torch.add(log_probs, losses, alpha=parameter)
    log_mgf = tilted.logsumexp(dim=-1, keepdim=True)
    density = tilted.sub_(log_mgf).exp_()
    return RiskValue(log_mgf.squeeze(-1) / parameter, density)


def paper_code(losses: Tensor, log_probs: Tensor, parameter: float) -> RiskValue:
    """Sum of `p L` over the entries whose loss exceeds an unweighted quantile.

    This is what the program published with Ra-DPO (arXiv 2505.20359) computes under the name of
    CVaR at confidence level `parameter`: the quantile, at level `1 - parameter`, counts
    vocabulary entries instead of probability, and the sum is not divided by the tail's mass. It
    is no coherent risk measure: shifting every loss does not shift it as much, it can lie below
    the mean, and its `density` does not sum to 1. Use it to compare with published runs only.

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

    The first `V // 2` entries are one half; a vocabulary of one has no halves and is taken whole.
    """
    middle = losses.shape[-1] // 2
    if middle == 0:
        return paper_code(losses, log_probs, parameter)
    first = paper_code(losses[..., :middle], log_probs[..., :middle], parameter)
    second = paper_code(losses[..., middle:], log_probs[..., middle:], parameter)
    density = torch.cat((first.density, second.density), dim=-1)
    return RiskValue(first.value + second.value, density)
