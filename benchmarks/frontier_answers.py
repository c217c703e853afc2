"""Policies over whole answers for the frontier study: tilts of all leaves by a tail cost.

Shape legend: G grid points of (beta, lambda), n leaves.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from riskalign.theory import TokenMDP, accumulate

TAILS = (0.95, 0.99)


class Points(NamedTuple):
    """What policies on one tree are worth: each [G]."""

    reward: Tensor
    kl: Tensor
    cvar: dict[float, Tensor]


Method = Callable[[TokenMDP, Tensor, Tensor], Iterator[Points]]


def evaluate(mdp: TokenMDP, log_probs: Tensor) -> Points:
    """Reward, KL and tails of policies [G, n]."""
    probs = log_probs.exp()
    cost, order = accumulate(mdp.cost).flatten().sort(descending=True)
    mass = probs[:, order]
    before = mass.cumsum(-1) - mass
    cvar = {}
    for level in TAILS:
        taken = (1 - level - before).clamp(min=0).minimum(mass)
        cvar[level] = taken @ cost / taken.sum(-1)
    kl = (probs * (log_probs - accumulate(mdp.log_ref))).sum(-1)
    return Points(probs @ accumulate(mdp.reward).flatten(), kl, cvar)


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


def optimum(tilt: Tilt, parameter: float, tail: float) -> Method:
    """`max E[R] - lambda tail rho(C) - beta KL`, exactly, at each point of the grid.

    `tail` is 1 - a for CVaR, so that the largest slope of the charge is lambda as in SACPO's form.
    """

    def solve(mdp: TokenMDP, beta: Tensor, weight: Tensor) -> Iterator[Points]:
        beta, weight = beta.flatten(1), weight.flatten(1)
        cost, order = accumulate(mdp.cost).flatten().sort()
        log_base = _helpful(mdp, beta)[:, order]
        # lambda 0 stands on the grid: the reward alone.
        strength = (weight * tail / beta).clamp(min=1e-9)
        found = tilt(cost, log_base, strength, parameter)
        yield evaluate(mdp, torch.empty_like(found).index_copy(1, order, found))

    return solve


def _helpful(mdp: TokenMDP, beta: Tensor) -> Tensor:
    """The reward's optimum over responses: log probabilities [G, n] at temperatures [G, 1]."""
    return (accumulate(mdp.log_ref) + accumulate(mdp.reward) / beta).log_softmax(-1)


def finer(
    beta: Tensor, weight: Tensor, betas: int, weights: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The grid [G, 1] and those that put `betas - 1` and `weights - 1` values into each gap."""
    beta, weight = beta.flatten(1), weight.flatten(1)
    steps = [float(values[2] / values[1]) for values in (beta.unique(), weight.unique())]
    for i in range(betas):
        for j in range(weights):
            yield beta * steps[0] ** (i / betas), weight * steps[1] ** (j / weights)


def finer_multipliers(mdp: TokenMDP, beta: Tensor, weight: Tensor) -> Iterator[Points]:
    """SACPO's optimum on a grid twice as fine in beta and 8 times as fine in lambda."""
    cost = accumulate(mdp.cost)
    for own_beta, own_weight in finer(beta, weight, 2, 8):
        charged = _helpful(mdp, own_beta) - own_weight * cost / own_beta
        yield evaluate(mdp, charged.log_softmax(-1))


def any_threshold(mdp: TokenMDP, beta: Tensor, weight: Tensor) -> Iterator[Points]:
    """Every tilt by `lambda (c - eta)_+`, whatever quantile `eta` is: each cost, or every third.

    On a grid twice as fine in beta and 4 times as fine in lambda. CVaR is bounded from above by
    `eta + E[(c - eta)_+] / (1 - a)`, which it is where eta is the quantile, and so at every
    optimum. With costs in falling order the sums of all leaves above eta follow from those at the
    threshold before it, `A(eta) = exp(-s (c - eta)) (A(c) + b)`, `s = lambda / beta`: one step for
    each leaf, and 432 thresholds cost about what two do by themselves.
    """
    order = accumulate(mdp.cost).flatten().argsort(descending=True)
    cost = accumulate(mdp.cost).flatten()[order]
    returns = accumulate(mdp.reward).flatten()[order]
    grids = list(finer(beta, weight, 2, 4))
    betas = torch.cat([own_beta for own_beta, _ in grids]).squeeze(-1)
    s = torch.cat([own_weight for _, own_weight in grids]).squeeze(-1) / betas
    # The sums below eta do not depend on lambda: one row for each temperature.
    distinct, which = betas.unique(return_inverse=True)
    logits = accumulate(mdp.log_ref).flatten()[order] + returns / distinct.unsqueeze(-1)
    log_norm = logits.logsumexp(-1)
    base = (logits - log_norm.unsqueeze(-1)).exp()
    mass = base.flip(-1).cumsum(-1).flip(-1).T.contiguous()
    paid = (base * returns).flip(-1).cumsum(-1).flip(-1).T.contiguous()
    base, log_norm = base.T.contiguous(), log_norm[which]
    above, paid_above, excess = (torch.zeros_like(s) for _ in range(3))
    previous = cost[0]
    every = 1 if len(cost) < 400 else 3
    for k in range(len(cost)):
        fallen = previous - cost[k]
        if k:
            b = base[k - 1][which]
            above, paid_above = above + b, paid_above + b * returns[k - 1]
            shrunk = (-s * fallen).exp()
            excess = shrunk * (excess + fallen * above)
            above, paid_above = shrunk * above, shrunk * paid_above
        previous = cost[k]
        if k % every and k < len(cost) - 1:
            continue
        total = above + mass[k][which]
        reward = (paid_above + paid[k][which]) / total
        over = excess / total
        kl = reward / betas - s * over - log_norm - total.log()
        yield Points(reward, kl, {level: cost[k] + over / (1 - level) for level in TAILS})
