"""The optimum for the tail of whole answers, and CVaR taken apart along the tree."""

from typing import NamedTuple

import torch
from torch import Tensor

from riskalign.risk import Risk, TailCost, tail_optimum
from riskalign.theory.evaluate import tail_of_total
from riskalign.theory.solve import negate, sequence_optimum
from riskalign.theory.tree import Levels, TokenMDP, accumulate, combine, induce


class AnswerOptimum(NamedTuple):
    """The policy and, for each tree of the batch, the tail cost that it is tilted by."""

    log_policy: Levels
    phi: tuple[TailCost, ...]


def answer_optimum(mdp: TokenMDP, risk: str | Risk, beta: float, lambda_: float) -> AnswerOptimum:
    """`max E[R] - lambda_ rho(C) - beta KL(p || ref)` over all policies, `C` the total cost.

    `p(y) ∝ ref(y) exp((R(y) - lambda_ phi(C(y))) / beta)` with the `phi` that belongs to p itself
    (docs/method.md, section 8): SACPO's optimum with `phi(C)` in the place of C. For each tree
    `riskalign.risk.tail_optimum` over its leaves.

    Raises `InputError` as `tail_optimum` does.
    """
    total = accumulate(mdp.cost)
    rows = total.reshape(-1, total.shape[-1])
    log_base = (accumulate(mdp.log_ref) + accumulate(mdp.reward) / beta).reshape(rows.shape)
    phi = tuple(
        tail_optimum(costs, risk, lambda_ / beta, log_base=base).phi
        for costs, base in zip(rows, log_base, strict=True)
    )
    losses = combine(negate(mdp.reward), charged(mdp, phi), 1.0, lambda_)
    return AnswerOptimum(sequence_optimum(losses, mdp.log_ref, beta), phi)


def charged(mdp: TokenMDP, phi: tuple[TailCost, ...]) -> Levels:
    """What each tree's tail cost charges a response for its total cost, at its last token."""
    total = accumulate(mdp.cost)
    rows = total.reshape(-1, total.shape[-1])
    charge = torch.stack([price(costs) for price, costs in zip(phi, rows, strict=True)])
    *above, last = mdp.cost
    return (*(torch.zeros_like(level) for level in above), charge.view(last.shape))


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
