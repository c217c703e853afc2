"""Policies on a tree that are optimal: one step, two, per state, under a limit, for the tail.

Costs and rewards enter as values of actions in cost form ("losses", lower is better): raising
reward and lowering cost are one function. Temperatures and multipliers broadcast with the levels.

Self-consistent optima have values under the new policy instead of the reference: per state
`V(s) = min_p rho_p(Q(s, .)) + beta KL(p || ref)` and `Q(s, z) = loss(s, z) + V(s z)`
(docs/theory.md, section 7). With the mean this is soft control, `sequence_optimum`.

Where a constraint binds, the multiplier is where the constrained value meets its limit; the value
falls as the multiplier rises, so doubling finds a bracket and halving closes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from riskalign.errors import InputError
from riskalign.pipeline.schedule import temperatures
from riskalign.risk import Risk, TailCost, get_risk, tail_optimum
from riskalign.theory.tree import (
    Levels,
    Measure,
    TokenMDP,
    accumulate,
    combine,
    expected_sum,
    induce,
    negate,
    nested,
    tilt,
    visits,
)

Number = Tensor | float

_GRID = 33  # points of the first search for the entropic measure's one unknown
_ROUNDS = 60  # of golden section after it
_DOUBLINGS = 60
_HALVINGS = 200


def value_scale(risk: Risk, beta: float) -> Risk:
    """The measure on values that `risk` on log ratios stands for at temperature `beta`.

    CVaR and the mean are positively homogeneous, so they are themselves; the entropic measure's
    parameter is divided by `beta` (docs/method.md, section 5).

    Raises `InputError` for a measure that is not positively homogeneous and does not say how it is
    rescaled.
    """
    losses, even = torch.arange(4, dtype=torch.float64), torch.full((4,), 0.25).double().log()
    rescaled = risk.measure.rescaled
    if rescaled is not None and risk.parameter is not None:
        return Risk(risk.name, rescaled(risk.parameter, beta))
    if not torch.isclose(risk(2 * losses, even).value, 2 * risk(losses, even).value):
        raise InputError(
            f"risk {risk.spec!r}: of twice the losses it is not twice that of them, and its "
            "Measure does not say how it is 'rescaled'"
        )
    return risk


def one_step(losses: Levels, log_ref: Levels, risk: Measure, beta: Number) -> Levels:
    """`ref * exp(-Q / beta)`, `Q` nested under the reference: what `rsa1` is minimised by.

    `risk` is on the scale of values. With the mean it is TDPO's optimum.
    """
    q, _ = nested(losses, log_ref, risk)
    return tilt(log_ref, q, beta)


def two_step(
    mdp: TokenMDP,
    risk_reward: Measure,
    risk_cost: Measure,
    beta: float,
    lambda_: float,
    schedule: str = "objective",
    *,
    fresh: bool = False,
) -> tuple[Levels, Levels]:
    """Both steps' policies: `pi_1` from the reward, `pi_2` from it by the cost.

    The cost's values are those under the reference, as in the joint problem, or with `fresh`
    those under `pi_1`, as in training on `pi_1`'s own answers. Measures are on values' scale.
    """
    first_beta, second_beta = temperatures(beta, lambda_, schedule)
    first = one_step(negate(mdp.reward), mdp.log_ref, risk_reward, first_beta)
    q_cost, _ = nested(mdp.cost, first if fresh else mdp.log_ref, risk_cost)
    return first, tilt(first, q_cost, second_beta)


def joint(mdp: TokenMDP, q_loss: Levels, q_cost: Levels, beta: Number, lambda_: Number) -> Levels:
    """`ref * exp(-(q_loss + lambda_ q_cost) / beta)`: the optimum of the Lagrangian at each state.

    Of `max_p E_p[Q_r] - lambda_ E_p[Q_c] - beta KL(p || ref)` with `q_loss = -Q_r`.
    """
    return tilt(mdp.log_ref, combine(q_loss, q_cost, 1.0, lambda_), beta)


def sequence_optimum(losses: Levels, log_ref: Levels, beta: Number) -> Levels:
    """The optimum over whole responses, `p(y) ∝ ref(y) exp(-loss(y) / beta)`, token by token.

    Maximises `E[-loss] - beta KL(p || ref)` over distributions of responses. With the loss
    `-reward` it is DPO's and RLHF's optimum; with `lambda_ cost - reward` SACPO's after its two
    steps (arXiv 2404.11049) and Safe RLHF's Lagrangian optimum (arXiv 2310.12773), which divides
    by `1 + lambda_`: its `beta` here is `(1 + lambda_)` times its own.

    By soft backward induction, `V(s) = -beta log E_ref[exp(-Q / beta)]`.
    """
    return induce(lambda q, level: _mean(q, level, beta), [losses], log_ref)[0]


def iterated(losses: Levels, log_ref: Levels, risk: Measure, beta: Number, rounds: int) -> Levels:
    """`rounds` one-step improvements at `rounds * beta`, each with values under its predecessor.

    What rounds of training on fresh samples do; together they tilt as far as one step at `beta`.
    """
    policy = log_ref
    for _ in range(rounds):
        policy = one_step(losses, policy, risk, rounds * beta)
    return policy


class Local(NamedTuple):
    """The optimum at each state: `log_policy` [..., S, V] and its value [..., S]."""

    log_policy: Tensor
    value: Tensor


def self_consistent(losses: Levels, log_ref: Levels, risk: Risk, beta: Number) -> Levels:
    """The policy that is optimal at every state for values under itself.

    `losses` combine what is to be lowered, for instance `lambda_ cost - reward`. Backward
    induction, exact at each state.
    """
    return induce(lambda q, level: optimum(q, level, risk, beta), [losses], log_ref)[0]


def tilted_consistent(
    losses: Levels, costs: Levels, log_ref: Levels, risk: Measure, beta: Number, lambda_: Number
) -> Levels:
    """One-step tilts whose values are those under the new policy; risk on the cost alone.

    `pi ∝ ref exp(-(Q_loss + lambda_ Q_cost) / beta)` with `V_loss = E_pi[Q_loss] + beta KL` and
    `V_cost = rho_pi(Q_cost)`: what iterated two-step training on fresh samples would have as its
    fixed point. It optimises no single objective unless the measure is the mean.
    """

    def step(q: Tensor, q_cost: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        policy = (level - (q + lambda_ * q_cost) / beta).log_softmax(-1)
        q, q_cost, policy, level = torch.broadcast_tensors(q, q_cost, policy, level)
        kl = (policy.exp() * (policy - level)).sum(-1)
        value = get_risk("mean")(q, policy).value + _per_state(beta) * kl
        return policy, value, risk(q_cost, policy).value

    return induce(step, [losses, costs], log_ref)[0]


def cautious(
    losses: Levels, costs: Levels, log_ref: Levels, risk: Risk, beta: Number, lambda_: Number
) -> Levels:
    """Self-consistent with the risk on the cost alone (mean or CVaR).

    At each state `min_p E_p[Q_loss] + lambda_ rho_p(Q_cost) + beta KL(p || ref)`, then
    `V_loss = E_p[Q_loss] + beta KL` and `V_cost = rho_p(Q_cost)` under that p. Best at each state,
    given what follows; over the whole tree a state's two values would have to be weighed by how
    far the prompt's risk looks at it, which no policy of states alone can know.
    """
    level = {"mean": 0.0, "cvar": risk.parameter}.get(risk.name)
    if level is None:
        raise InputError(f"risk {risk.spec!r}: the risk on the cost alone is mean or cvar here")

    def step(q: Tensor, q_cost: Tensor, log_ref: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (policy, _), eta = _tail_averse(q, q_cost, log_ref, level, beta, lambda_)
        excess = (q_cost - eta.unsqueeze(-1)).clamp(min=0)
        cost = eta + (policy.exp() * excess).sum(-1) / (1 - level)
        return policy, (policy.exp() * (q + beta * (policy - log_ref))).sum(-1), cost

    return induce(step, [losses, costs], log_ref)[0]


def optimum(q: Tensor, log_ref: Tensor, risk: Risk, beta: Number) -> Local:
    """`argmin_p rho_p(q) + beta KL(p || ref)` at each state; `q` and `log_ref` are [..., S, V].

    Raises `InputError` for a measure without a solution here (mean, cvar and erm have one).
    """
    q, log_ref = torch.broadcast_tensors(q, log_ref)
    match risk.name, risk.parameter:
        case "mean", _:
            return _mean(q, log_ref, beta)
        case "cvar", float(level):
            return _tail_averse(torch.zeros_like(q), q, log_ref, level, beta, 1.0)[0]
        case "erm", float(mu):
            return _entropic(q, log_ref, mu, beta)
    raise InputError(f"risk {risk.spec!r}: no exact optimum; there are mean, cvar, erm")


def _mean(q: Tensor, log_ref: Tensor, beta: Number) -> Local:
    tilted = log_ref - q / beta
    norm = tilted.logsumexp(-1, keepdim=True)
    return Local(tilted - norm, -(beta * norm).squeeze(-1))


def _tail_averse(
    q: Tensor, q_cost: Tensor, log_ref: Tensor, level: float, beta: Number, lambda_: Number
) -> tuple[Local, Tensor]:
    """`argmin_p E_p[q] + lambda_ CVaR_p(q_cost) + beta KL(p || ref)`, its quantile [..., S].

    By `CVaR_p(c) = min_eta eta + E_p[(c - eta)_+]/(1-a)`: for given eta the best p is a tilt. What
    is left, for q = 0 and lambda_ = 1 `eta - beta log E_ref exp(-(c - eta)_+ / ((1-a) beta))`, is
    concave in eta between neighbouring costs: its derivative is `1 - P_p(c > eta)/(1-a)`, and there
    P_p(c > eta) grows with eta. So the minimum is at one of the V costs.
    """
    found = []
    for eta in q_cost.unbind(-1):
        excess = (q_cost - eta.unsqueeze(-1)).clamp(min=0) / (1 - level)
        policy, rest = _mean(q + lambda_ * excess, log_ref, beta)
        value = rest + _per_state(lambda_) * eta
        found.append((policy, value, eta.expand(value.shape)))
    policies, values, etas = (torch.stack(each) for each in zip(*found, strict=True))
    least = values.argmin(0, keepdim=True)
    policy = policies.take_along_dim(least.unsqueeze(-1), 0)[0]
    value, eta = (each.take_along_dim(least, 0)[0] for each in (values, etas))
    return Local(policy, value), eta


def _entropic(q: Tensor, log_ref: Tensor, mu: float, beta: Number) -> Local:
    """By `log m = min_k k m - 1 - log k`: for given k the best p is a tilt by `exp(mu q)`.

    With `k = exp(-mu c)` one unknown c between the least and the largest value of q is left:
    `c - 1/mu - beta log E_ref exp(-exp(mu (q - c)) / (mu beta))`, searched on a grid, then by
    golden section around its best point.
    """

    def at(c: Tensor) -> Local:
        local = _mean((mu * (q - c)).exp() / mu, log_ref, beta)
        return Local(local.log_policy, local.value + c.squeeze(-1) - 1 / mu)

    low, high = q.amin(-1, keepdim=True), q.amax(-1, keepdim=True)
    width = (high - low) / (_GRID - 1)
    values = torch.stack([at(low + i * width).value for i in range(_GRID)], dim=-1)
    middle = low + values.argmin(-1, keepdim=True) * width
    low, high = (middle - width).maximum(low), (middle + width).minimum(high)
    ratio = (5**0.5 - 1) / 2
    for _ in range(_ROUNDS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        keep_left = (at(left).value <= at(right).value).unsqueeze(-1)
        low, high = torch.where(keep_left, low, left), torch.where(keep_left, right, high)
    return at((low + high) / 2)


def _per_state(beta: Number) -> Number:
    """A temperature that broadcasts with [..., S, V], for use with [..., S]."""
    return beta.squeeze(-1) if isinstance(beta, Tensor) and beta.dim() else beta


@dataclass(frozen=True)
class Constrained:
    """An optimum under `value <= limit`; tensors of the batch's shape.

    `multiplier` is 0 where the limit does not bind and infinite where no policy of the family
    meets it; `value` is the constrained value at the optimum.
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
    return torch.where(slack, 0.0, torch.where(feasible, high, torch.inf))


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
