"""Exact evaluation of a policy on a tree: no sampling, no bound."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from riskalign.risk import Risk, get_risk
from riskalign.theory.tree import Levels, TokenMDP, accumulate, expected_sum, nested


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
    drift = tuple(own - ref for own, ref in zip(log_policy, mdp.log_ref, strict=True))
    ratios = tuple(risk_ratio(own, ref, measure) for own, ref in zip(
        log_policy, mdp.log_ref, strict=True
    ))
    return Evaluation(
        reward=-nested(tuple(-r for r in mdp.reward), log_policy, neutral)[1][0].squeeze(-1),
        cost=nested(mdp.cost, log_policy, neutral)[1][0].squeeze(-1),
        var={level: var for level, (var, _) in tails.items()},
        cvar={level: cvar for level, (_, cvar) in tails.items()},
        nested_cost=nested(mdp.cost, log_policy, measure)[1][0].squeeze(-1),
        kl=expected_sum(drift, log_policy),
        srr=expected_sum(ratios, log_policy),
    )


def risk_ratio(log_policy: Tensor, log_ref: Tensor, risk: Risk) -> Tensor:
    """Risk ratio of each state, `rho_ref(log ref/policy)`, the same for its V tokens: [..., S, V]."""
    losses, weights = torch.broadcast_tensors(log_ref - log_policy, log_ref)
    return risk(losses, weights).value.unsqueeze(-1).expand(losses.shape)


def tail_of_total(mdp: TokenMDP, log_policy: Levels, level: float) -> tuple[Tensor, Tensor]:
    """VaR and CVaR of the total cost at a level in [0, 1): two tensors [...].

    By sorting the leaves once: an oracle independent of `riskalign.risk.cvar`'s search, which a
    test holds against it.
    """
    cost = accumulate(mdp.cost)
    probs = accumulate(log_policy).exp()
    cost, probs = torch.broadcast_tensors(cost, probs)
    ordered, order = cost.sort(dim=-1, descending=True)
    mass = probs.gather(-1, order)
    before = mass.cumsum(-1) - mass
    taken = (1 - level - before).clamp(min=0).minimum(mass)
    # Rounding may leave the total a hair under 1, and so the last atom short of its share.
    inside = (before + mass <= 1 - level).sum(-1, keepdim=True).clamp(max=cost.shape[-1] - 1)
    var = ordered.gather(-1, inside).squeeze(-1)
    return var, (taken * ordered).sum(-1) / taken.sum(-1)
