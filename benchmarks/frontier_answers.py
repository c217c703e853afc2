"""Policies over whole answers for the frontier study: tilts of all leaves by a tail cost.

Each function yields tables of leaf log probabilities [G, n] for G points of (beta, lambda).
Shape legend: G grid points, n leaves.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from riskalign.theory import TokenMDP, accumulate

Answers = Callable[[TokenMDP, Tensor, Tensor], Iterator[Tensor]]

# Shares of the reference's mass below the thresholds of `any_threshold`; 0 is the least cost.
SHARES_BELOW = (
    0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.99,
)  # fmt: skip
FINER = len(SHARES_BELOW)  # as many multipliers instead


def tilted_by_cvar(cost: Tensor, log_base: Tensor, strength: Tensor, level: float) -> Tensor:
    """The least `strength CVaR(C) + KL(w || base)`: log w [G, n], by a scan of every threshold.

    `cost` [n] rises; `log_base` [G, n], normalised; `strength` [G, 1]. At the threshold `c_k` the
    objective is `strength c_k - log(sum_{j <= k} b_j + sum_{j > k} b_j exp(-s (c_j - c_k)))` with
    `s = strength / (1 - level)`, so that cumulated sums give all of them at once. That the optimum
    is at one of the costs: `riskalign.risk.tail_optimum`, which a test holds it against.
    """
    s = strength / (1 - level)
    below = log_base.logcumsumexp(-1)
    above = (log_base - s * cost).flip(-1).logcumsumexp(-1).flip(-1)
    above = torch.cat([above[:, 1:], above.new_full((len(above), 1), -torch.inf)], dim=-1)
    objective = strength * cost - torch.logaddexp(below, above + s * cost)
    eta = cost[objective.argmin(-1, keepdim=True)]
    return (log_base - s * (cost - eta).clamp(min=0)).log_softmax(-1)


def tilted_by_erm(cost: Tensor, log_base: Tensor, strength: Tensor, mu: float) -> Tensor:
    """The fixed point `w ∝ base exp(-strength exp(mu (c - rho_w)) / mu)`: log w [G, n].

    One number is unknown, `x = log(strength) - mu rho`; it is halved into place.
    """
    log_strength = strength.log()
    low, high = log_strength - mu * cost.amax(), log_strength - mu * cost.amin()

    def at(x: Tensor) -> Tensor:
        return (log_base - (x + mu * cost).exp() / mu).log_softmax(-1)

    rounds = math.ceil(math.log2(max(mu * float(cost[-1] - cost[0]), 1.0) / 1e-6))
    for _ in range(rounds):
        middle = (low + high) / 2
        mu_rho = (at(middle) + mu * cost).logsumexp(-1, keepdim=True)
        over = middle + mu_rho > log_strength
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return at((low + high) / 2)


Tilt = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def optimum(tilt: Tilt, parameter: float, tail: float) -> Answers:
    """`max E[R] - lambda tail rho(C) - beta KL`, exactly, at each point of the grid.

    `tail` is 1 - a for CVaR, so that the largest slope of the charge is lambda as in SACPO's form.
    """

    def solve(mdp: TokenMDP, beta: Tensor, weight: Tensor) -> Iterator[Tensor]:
        beta, weight = beta.flatten(1), weight.flatten(1)
        cost, order = accumulate(mdp.cost).flatten().sort()
        log_base = accumulate(mdp.log_ref) + accumulate(mdp.reward) / beta
        log_base = log_base.log_softmax(-1)[:, order]
        # lambda 0 stands on the grid: the reward alone.
        strength = (weight * tail / beta).clamp(min=1e-9)
        found = tilt(cost, log_base, strength, parameter)
        yield torch.empty_like(found).index_copy(1, order, found)

    return solve


def any_threshold(mdp: TokenMDP, beta: Tensor, weight: Tensor) -> Iterator[Tensor]:
    """Every tilt by `lambda (c - eta)_+`, whatever quantile `eta` turns out to be.

    The least cost is among the thresholds, so SACPO's whole grid is among the policies.
    """
    beta, weight = beta.flatten(1), weight.flatten(1)
    cost, order = accumulate(mdp.cost).flatten().sort()
    below = accumulate(mdp.log_ref).flatten().exp()[order].cumsum(0)
    shares = torch.tensor(SHARES_BELOW, dtype=torch.float64)
    log_base = accumulate(mdp.log_ref) + accumulate(mdp.reward) / beta
    for eta in cost[torch.searchsorted(below, shares).clamp(max=len(cost) - 1)]:
        charge = (accumulate(mdp.cost) - eta).clamp(min=0)
        yield (log_base - weight * charge / beta).log_softmax(-1)


def finer_multipliers(mdp: TokenMDP, beta: Tensor, weight: Tensor) -> Iterator[Tensor]:
    """SACPO's optimum at as many policies: 16 multipliers in the place of each."""
    beta, weight = beta.flatten(1), weight.flatten(1)
    values = weight.unique()
    step = float(values[2] / values[1])
    log_base = accumulate(mdp.log_ref) + accumulate(mdp.reward) / beta
    for i in range(FINER):
        finer = weight * step ** (i / FINER)
        yield (log_base - finer * accumulate(mdp.cost) / beta).log_softmax(-1)
