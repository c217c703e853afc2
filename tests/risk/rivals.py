"""Risk measures that the library does not have, as a contributor would write them."""

import pytest
import torch
from torch import Tensor

from riskalign.risk import RISKS, RiskValue
from riskalign.risk.registry import Measure


def dual_power(losses: Tensor, log_probs: Tensor, parameter: float) -> RiskValue:
    """Mean of the largest of `k = parameter` draws: the distortion `1 - (1 - u)^k`.

    By hand: `p = (1/2, 1/2)`, `L = (0, 1)`, `k = 2`: the larger of two is 1 with probability 3/4.
    """
    losses, log_probs = torch.broadcast_tensors(losses, log_probs)
    ordered, order = losses.sort(dim=-1, descending=True)
    mass = log_probs.gather(-1, order).exp()
    at_most = (1 - (mass.cumsum(-1) - mass)).clamp(min=1e-300)
    # P(L <= l)^k - P(L < l)^k, in a form that also holds for an atom of vanishing mass.
    lost = (mass / at_most).clamp(max=1.0)
    q = -(at_most**parameter) * (parameter * torch.log1p(-lost)).expm1()
    # Atoms of one loss share what is theirs by their mass, as a distribution cannot tell them.
    density = torch.zeros_like(q).scatter(-1, order, q)
    return RiskValue((q * ordered).sum(-1), density)


def semideviation(losses: Tensor, log_probs: Tensor, parameter: float) -> RiskValue:
    """Mean plus `parameter` times the mean excess over it.

    By hand: `p = (1/2, 1/2)`, `L = (0, 1)`, parameter 1: `1/2 + 1/4`.
    """
    p = log_probs.exp()
    mean = (p * losses).sum(-1, keepdim=True)
    above = (losses > mean).to(p)
    q = p * (1 + parameter * (above - (p * above).sum(-1, keepdim=True)))
    return RiskValue((q * losses).sum(-1), q)


def two_levels(losses: Tensor, log_probs: Tensor, parameter: float) -> RiskValue:
    """Half the CVaR at the level, half that at half the level: a spectral measure."""
    parts = [RISKS["cvar"].function(losses, log_probs, a) for a in (parameter, parameter / 2)]
    return RiskValue(*((a + b) / 2 for a, b in zip(*parts, strict=True)))


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each, which is all that a measure takes."""
    for name, measure in {
        "dual_power": Measure(dual_power, low=1.0, high=20.0),
        "semideviation": Measure(semideviation, low=0.0, high=1.0),
        "two_levels": Measure(two_levels, low=0.0, high=1.0),
    }.items():
        monkeypatch.setitem(RISKS, name, measure)


def specs() -> list[str]:
    """Every law-invariant measure of the registry at parameters inside its range."""
    found = []
    for name, measure in RISKS.items():
        if measure.law_invariant and measure.low is None:
            found.append(name)
        elif measure.law_invariant and measure.low is not None:
            width = min(measure.high - measure.low, 2.0)
            found += [f"{name}:{measure.low + share * width}" for share in (0.3, 0.8)]
    return found
