"""The random trees that claims are checked on, and the measures they are checked for."""

import torch
from torch import Tensor

from riskalign.theory import FAMILIES, Levels, TokenMDP, random_mdp
from riskalign.theory.verify.claim import Setting

MEASURES = ("mean", "cvar:0.5", "cvar:0.95", "erm:0.5", "erm:2.0")
BETA = 0.5


def trees(setting: Setting, vocabulary: int = 4, depth: int = 3) -> list[TokenMDP]:
    """At least `trees` trees in all, a batch from each family."""
    each = -(-setting.trees // len(FAMILIES))
    return [
        random_mdp(family, setting.seed + i, vocabulary=vocabulary, depth=depth, count=each)
        for i, family in enumerate(FAMILIES)
    ]


def rivals(log_policy: Levels, tries: int, seed: int, spread: float = 1.0) -> list[Levels]:
    """Random policies around one, near and far."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for i in range(tries):
        width = spread * 10.0 ** -(i % 4)
        drawn.append(
            tuple(
                (
                    level + width * torch.randn(level.shape, generator=generator, dtype=level.dtype)
                ).log_softmax(-1)
                for level in log_policy
            )
        )
    return drawn


def total_variation(first: Levels, second: Levels) -> Tensor:
    """Largest total variation between two policies over all states: one number a tree."""
    worst = [
        ((a.exp() - b.exp()).abs().sum(-1) / 2).flatten(-1).amax(-1)
        for a, b in zip(first, second, strict=True)
    ]
    return torch.stack(worst).amax(0)


def divergence(p: Tensor, log_q: Tensor) -> Tensor:
    """KL(exp(p) || exp(q)) over the last dimension, of log probabilities."""
    return (p.exp() * (p - log_q)).sum(-1)
