"""Random trees of several kinds, all from a seed; batches of them have a leading dimension.

A family says how costs lie on the tree. In each, the return has standard deviation 1 under the
reference and the cost a CVaR 0.95 of 1, so that temperatures mean the same everywhere.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from riskalign.errors import InputError
from riskalign.theory.evaluate import tail_of_total
from riskalign.theory.tree import Levels, TokenMDP, accumulate


class Shape(NamedTuple):
    """`trees` trees of `vocabulary` tokens and `depth` steps."""

    trees: int
    vocabulary: int
    depth: int


def _normal(shape: Shape, generator: torch.Generator) -> Levels:
    sizes = [(shape.trees, shape.vocabulary**t, shape.vocabulary) for t in range(shape.depth)]
    return tuple(torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)


def _uniform(shape: Shape, depth: int, generator: torch.Generator) -> Tensor:
    """For each beginning of `depth` tokens: [trees, V**(depth - 1), V]."""
    size = (shape.trees, shape.vocabulary ** (depth - 1), shape.vocabulary)
    return torch.rand(size, generator=generator, dtype=torch.float64)


def _terminal(leaves: Tensor, shape: Shape) -> Levels:
    above = [(shape.trees, shape.vocabulary**t, shape.vocabulary) for t in range(shape.depth - 1)]
    return (*(leaves.new_zeros(size) for size in above), leaves)


def _pareto(uniform: Tensor, exponent: float = 1.5) -> Tensor:
    """Heavy-tailed sizes of at least 1: the variance is infinite, the mean finite."""
    return uniform.clamp(min=1e-6) ** (-1 / exponent)


def diffuse(shape: Shape, generator: torch.Generator, reward: Levels) -> Levels:
    """Each token costs a little, log-normally, whatever it earns."""
    return tuple(level.exp() for level in _normal(shape, generator))


def scattered(shape: Shape, generator: torch.Generator, reward: Levels) -> Levels:
    """One response in twenty is costly, wherever it stands, by a heavy-tailed amount."""
    struck = _uniform(shape, shape.depth, generator) < 0.05
    return _terminal(struck * _pareto(_uniform(shape, shape.depth, generator)), shape)


def behind_prefix(shape: Shape, generator: torch.Generator, reward: Levels) -> Levels:
    """Catastrophes live behind one beginning in `vocabulary`: there, one response in five is one.

    Other responses cost a little. What a token risks shows before the harm is written.
    """
    trapped = _uniform(shape, 2, generator) < 1 / shape.vocabulary
    leaves = _uniform(shape, shape.depth, generator)
    below = shape.vocabulary ** (shape.depth - 2)
    inside = trapped.flatten(-2).repeat_interleave(below, dim=-1).view_as(leaves)
    size = _pareto(_uniform(shape, shape.depth, generator))
    small = 0.05 * _uniform(shape, shape.depth, generator)
    return _terminal(torch.where(inside & (leaves < 0.2), size, small), shape)


def with_reward(shape: Shape, generator: torch.Generator, reward: Levels) -> Levels:
    """The better a response pays, the likelier it is a catastrophe: the reward tempts.

    One standard deviation above the mean return every second response is one, at the mean one in
    fourteen.
    """
    total = accumulate(reward).view(shape.trees, -1, shape.vocabulary)
    standard = (total - total.mean((1, 2), keepdim=True)) / total.std((1, 2), keepdim=True)
    struck = _uniform(shape, shape.depth, generator) < (2.5 * (standard - 1)).sigmoid()
    return _terminal(struck * _pareto(_uniform(shape, shape.depth, generator)), shape)


FAMILIES: dict[str, Callable[[Shape, torch.Generator, Levels], Levels]] = {
    "diffuse": diffuse,
    "scattered": scattered,
    "prefix": behind_prefix,
    "correlated": with_reward,
}


def random_mdp(
    family: str,
    seed: int,
    *,
    vocabulary: int = 4,
    depth: int = 3,
    count: int = 1,
    peakedness: float = 1.0,
) -> TokenMDP:
    """`count` trees of a family; their levels are [count, V**t, V], float64.

    The reference has normal logits of standard deviation `peakedness`, the reward a normal part
    for each token. Depth at least 2.

    Raises `InputError` for an unknown family or a tree too shallow.
    """
    if family not in FAMILIES:
        raise InputError(f"family {family!r}: not one of {', '.join(FAMILIES)}")
    if depth < 2 or vocabulary < 2 or count < 1:
        raise InputError("a tree needs a depth and a vocabulary of at least 2, and a count of 1")
    generator = torch.Generator().manual_seed(seed)
    shape = Shape(count, vocabulary, depth)
    log_ref = tuple((peakedness * level).log_softmax(-1) for level in _normal(shape, generator))
    reward = _normal(shape, generator)
    cost = FAMILIES[family](shape, generator, reward)
    probs = accumulate(log_ref).exp()
    returns = accumulate(reward)
    mean = (probs * returns).sum(-1, keepdim=True)
    deviation = (probs * (returns - mean) ** 2).sum(-1).sqrt()
    unscaled = TokenMDP(log_ref, reward, cost)
    tail = tail_of_total(unscaled, log_ref, 0.95).cvar
    # A small tree may have no costly response at all; it stays as it is.
    tail = torch.where(tail > 0, tail, torch.ones_like(tail))
    return TokenMDP(
        log_ref,
        tuple(level / deviation.view(-1, 1, 1) for level in reward),
        tuple(level / tail.view(-1, 1, 1) for level in cost),
    )
