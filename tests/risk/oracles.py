"""Slow, plain versions of the risk measures, written independently of the package."""

import torch
from torch import Tensor


def cvar_by_sorting(losses: Tensor, probs: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """CVaR [...] and its worst-case density [..., V]: fill the tail from the largest loss down."""
    tail = 1.0 - level
    ordered, order = losses.sort(dim=-1, descending=True)
    mass = probs.gather(-1, order)
    before = mass.cumsum(-1) - mass
    taken = torch.minimum(mass, (tail - before).clamp_min(0.0)) / tail
    density = torch.zeros_like(probs).scatter(-1, order, taken)
    return (taken * ordered).sum(-1), density


def cvar_by_minimising(losses: Tensor, probs: Tensor, level: float) -> Tensor:
    """CVaR [...] from its variational form, tried at every atom, where the minimum must lie."""
    excess = (losses.unsqueeze(-2) - losses.unsqueeze(-1)).clamp_min(0.0)
    objective = losses + (probs.unsqueeze(-2) * excess).sum(-1) / (1.0 - level)
    return objective.amin(-1)
