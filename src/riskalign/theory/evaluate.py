"""Exact evaluation of a policy on a tree: no sampling, no bound."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from riskalign.risk import Risk, RiskValue, get_risk
from riskalign.theory.tree import (
    Levels,
    Measure,
    TokenMDP,
    accumulate,
    combine,
    expected_sum,
    induce,
    nested,
)


@dataclass(frozen=True)
class Evaluation:
    """What a policy is worth; every tensor is [...], the batch of policies.

    `reward` and `cost` are expected totals, `var` and `cvar` those of the total cost by level,
    `nested_cost` its nested risk, `kl` is `KL(policy || ref)` of whole responses and `srr` the
    expected sequential risk ratio, both in nats.
    """

    reward: Tensor
    cost: Tensor
    var: dict[float, Tensor]
    cvar: dict[float, Tensor]
    nested_cost: Tensor
    kl: Tensor
    srr: Tensor


def evaluate(
    mdp: TokenMDP,
    log_policy: Levels,
    *,
    levels: Sequence[float] = (0.9, 0.95, 0.99),
    risk: str | Risk = "cvar:0.95",
) -> Evaluation:
    """Evaluate a policy, or a batch of them, exactly.

    `levels` are those of VaR and CVaR of the total cost, `risk` the measure of the nested cost
    and of SRR. One pass over the leaves for each quantity.
    """
    measure = get_risk(risk)
    neutral = get_risk("mean")
    tails = {level: tail_of_total(mdp, log_policy, level) for level in levels}
    drift = combine(log_policy, mdp.log_ref, 1.0, -1.0)
    pairs = zip(log_policy, mdp.log_ref, strict=True)
    ratios = tuple(risk_ratio(level, ref, measure) for level, ref in pairs)
    return Evaluation(
        reward=-nested(tuple(-r for r in mdp.reward), log_policy, neutral)[1][0].squeeze(-1),
        cost=nested(mdp.cost, log_policy, neutral)[1][0].squeeze(-1),
        var={level: tail_.var for level, tail_ in tails.items()},
        cvar={level: tail_.cvar for level, tail_ in tails.items()},
        nested_cost=nested(mdp.cost, log_policy, measure)[1][0].squeeze(-1),
        kl=expected_sum(drift, log_policy),
        srr=expected_sum(ratios, log_policy),
    )


def risk_ratio(log_policy: Tensor, log_ref: Tensor, risk: Risk) -> Tensor:
    """Each state's `rho_ref(log ref/policy)`, the same for its V tokens: [..., S, V]."""
    losses, weights = torch.broadcast_tensors(log_ref - log_policy, log_ref)
    return risk(losses, weights).value.unsqueeze(-1).expand(losses.shape)


class Tail(NamedTuple):
    """VaR and CVaR [...] of a distribution, and CVaR's worst-case density [..., n]."""

    var: Tensor
    cvar: Tensor
    density: Tensor


def tail_of_total(mdp: TokenMDP, log_policy: Levels, level: float) -> Tail:
    """VaR and CVaR of the total cost at a level in [0, 1)."""
    return tail(accumulate(mdp.cost), accumulate(log_policy).exp(), level)


def tail(values: Tensor, probs: Tensor, level: float) -> Tail:
    """VaR and CVaR of values [..., n] with probabilities [..., n].

    By sorting: an oracle independent of `riskalign.risk.measures`'s search, which a test and
    `riskalign verify` hold against it, and faster on a small vocabulary.
    """
    values, probs = torch.broadcast_tensors(values, probs)
    ordered, order = values.sort(dim=-1, descending=True)
    mass = probs.gather(-1, order)
    reached = mass.cumsum(-1)
    taken = (1 - level - (reached - mass)).clamp(min=0).minimum(mass)
    # Rounding may leave the total a hair under 1, and so the last atom short of its share.
    taken = taken / taken.sum(-1, keepdim=True)
    inside = (reached <= 1 - level).sum(-1, keepdim=True).clamp(max=values.shape[-1] - 1)
    return Tail(
        ordered.gather(-1, inside).squeeze(-1),
        (taken * ordered).sum(-1),
        torch.zeros_like(taken).scatter(-1, order, taken),
    )


def by_sorting(risk: Risk) -> Measure:
    """The same measure, CVaR computed by sorting: several times faster where V is small."""
    level = risk.parameter
    if risk.name != "cvar" or level is None:
        return risk

    def sorted_cvar(losses: Tensor, log_probs: Tensor) -> RiskValue:
        found = tail(losses, log_probs.exp(), level)
        return RiskValue(found.cvar, found.density)

    return sorted_cvar


class Decomposed(NamedTuple):
    """CVaR of the total cost, token by token.

    `share` [..., V**t, V] is the tail's probability given each beginning and its next token, 1 less
    the level there; `value` [..., V**t] what the cost still to come is worth at each beginning.
    """

    share: Levels
    value: Levels


def decomposed(mdp: TokenMDP, log_policy: Levels, level: float) -> Decomposed:
    """Static CVaR as nested CVaR whose level depends on the prefix (Pflug and Pichler, 2016).

    With `tau(s)` the probability of the worst `1 - a` of all responses given the beginning s,
    `V(s) = sum_z p(z|s) tau(sz)/tau(s) (cost(s, z) + V(sz))` is the CVaR of the cost to come at
    level `1 - tau(s)`, and `V` of the prompt the CVaR of the total (docs/theory.md, section 9).
    Where no tail lies behind a beginning (`tau` 0), V is 0.
    """
    size = mdp.vocabulary
    mass = (1 - level) * tail_of_total(mdp, log_policy, level).density
    reached = accumulate(log_policy).exp()
    tau = [mass / reached]
    for _ in mdp.cost:
        mass, reached = (each.unflatten(-1, (-1, size)).sum(-1) for each in (mass, reached))
        tau.insert(0, mass / reached)

    def step(q: Tensor, log_probs: Tensor, share: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        here = here.unsqueeze(-1)
        weight = (log_probs.exp() * share / here).where(here > 0, 0.0)
        return share, (weight * q).sum(-1)

    share = tuple(level_.unflatten(-1, (-1, size)) for level_ in tau[1:])
    return Decomposed(*induce(step, [mdp.cost], log_policy, share, tuple(tau[:-1])))
