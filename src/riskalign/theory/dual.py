"""Constrained optima: the multiplier is found by bracketing the dual's root.

Where the constraint binds, the multiplier is where the constrained value meets its limit; the
value falls as the multiplier rises, so doubling finds a bracket and halving closes it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from riskalign.theory.solve import negate, sequence_optimum
from riskalign.theory.tree import Levels, TokenMDP, combine, expected_sum, tilt, visits

_DOUBLINGS = 60
_HALVINGS = 200


@dataclass(frozen=True)
class Constrained:
    """An optimum under `value <= limit`; tensors of the batch's shape.

    `multiplier` is 0 where the limit does not bind and infinite where no policy of the family
    meets it. `value` is the constrained value at the optimum; complementary slackness says that
    `multiplier * (value - limit)` is 0.
    """

    log_policy: Levels
    multiplier: Tensor
    value: Tensor
    limit: Tensor

    @property
    def feasible(self) -> Tensor:
        """Where the limit is met by some multiplier."""
        return self.multiplier.isfinite()

    @property
    def slackness(self) -> Tensor:
        """`|multiplier * (value - limit)|`, 0 at an optimum; NaN where infeasible."""
        return (self.multiplier * (self.value - self.limit)).abs()


def multiplier(value: Callable[[Tensor], Tensor], limit: Tensor) -> Tensor:
    """Least `lambda >= 0` with `value(lambda) <= limit`, elementwise; infinite where none is.

    `value` maps multipliers to values, both of `limit`'s shape, and must not rise.
    """
    low, high = torch.zeros_like(limit), torch.ones_like(limit)
    for _ in range(_DOUBLINGS):
        high = torch.where(value(high) > limit, 2 * high, high)
    feasible = value(high) <= limit
    slack = value(low) <= limit
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        met = value(middle) <= limit
        low, high = torch.where(met, low, middle), torch.where(met, middle, high)
        if bool((high - low <= 4e-16 * high).all()):
            break
    bounded = torch.where(feasible, high, torch.inf)
    return torch.where(slack, 0.0, bounded)


def _solved(
    policy: Callable[[Tensor], Levels], value: Callable[[Levels], Tensor], limit: Tensor
) -> Constrained:
    """The optimum among `policy(multiplier)`; where none meets the limit, the policy at 0."""
    least = multiplier(lambda lambda_: value(policy(lambda_)), limit)
    best = policy(torch.where(least.isfinite(), least, torch.zeros_like(least)))
    return Constrained(best, least, value(best), limit)


def at_each_state(
    log_ref: Tensor, q_loss: Tensor, q_cost: Tensor, beta: float, limit: Tensor
) -> Constrained:
    """`min_p E_p[q_loss] + beta KL(p || ref)` subject to `E_p[q_cost] <= limit` at each state.

    Shapes: `log_ref`, `q_loss`, `q_cost` are [..., S, V], `limit` [..., S]; each state has a
    multiplier of its own.
    """

    def policy(lambda_: Tensor) -> Levels:
        return tilt((log_ref,), (q_loss + lambda_.unsqueeze(-1) * q_cost,), beta)

    return _solved(policy, lambda log_policy: (log_policy[0].exp() * q_cost).sum(-1), limit)


def on_average(
    log_ref: Levels, q_loss: Levels, q_cost: Levels, beta: float, limit: Tensor
) -> Constrained:
    """The same with one multiplier for all states and a limit on their sum, weighed by visits.

    `min_pi sum_s d(s) (E_pi[q_loss] + beta KL)` subject to `sum_s d(s) E_pi[q_cost] <= limit`,
    where `d(s)` is how often the reference reaches s and the values are fixed: what one multiplier
    for a whole training run can promise. `limit` has the shape of the batch of trees.
    """
    reached = visits(log_ref)

    def policy(lambda_: Tensor) -> Levels:
        return tilt(log_ref, combine(q_loss, q_cost, 1.0, lambda_[..., None, None]), beta)

    def value(log_policy: Levels) -> Tensor:
        total = torch.zeros_like(limit)
        for at, level, cost in zip(reached, log_policy, q_cost, strict=True):
            total = total + (at * (level.exp() * cost).sum(-1)).sum(-1)
        return total

    return _solved(policy, value, limit)


def over_responses(mdp: TokenMDP, beta: float, limit: Tensor) -> Constrained:
    """`max E[reward] - beta KL` subject to `E[cost] <= limit`, over whole responses.

    The problem of Safe RLHF and SACPO with the limit given and the multiplier found. `limit` has
    the shape of the batch of trees.
    """

    def policy(lambda_: Tensor) -> Levels:
        losses = combine(negate(mdp.reward), mdp.cost, 1.0, lambda_[..., None, None])
        return sequence_optimum(losses, mdp.log_ref, beta)

    return _solved(policy, lambda log_policy: expected_sum(mdp.cost, log_policy), limit)
