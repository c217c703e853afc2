"""Self-consistent risk-averse optima: values under the new policy instead of the reference.

Per state, with values in cost form, `V(s) = min_p rho_p(Q(s, .)) + beta KL(p || ref)` and
`Q(s, z) = loss(s, z) + V(s z)` (docs/theory.md, section 7). With the mean this is soft control,
whose optimum is that over whole responses (`solve.sequence_optimum`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from riskalign.errors import InputError
from riskalign.risk import Risk, get_risk
from riskalign.theory.tree import Levels, Measure, induce

Number = Tensor | float

_GRID = 33  # points of the first search for the entropic measure's one unknown
_ROUNDS = 60  # of golden section after it


class Local(NamedTuple):
    """The optimum at each state: `log_policy` [..., S, V] and its value [..., S]."""

    log_policy: Tensor
    value: Tensor


def self_consistent(losses: Levels, log_ref: Levels, risk: Risk, beta: Number) -> Levels:
    """The policy that is optimal at every state for values under itself.

    `losses` combine what is to be lowered, for instance `lambda_ cost - reward`; `beta` > 0 is a
    number or broadcasts with the levels. Backward induction, exact at each state.
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
    neutral = get_risk("mean")

    def step(q: Tensor, q_cost: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        policy = (level - (q + lambda_ * q_cost) / beta).log_softmax(-1)
        q, q_cost, policy, level = torch.broadcast_tensors(q, q_cost, policy, level)
        kl = (policy.exp() * (policy - level)).sum(-1)
        value = neutral(q, policy).value + _per_state(beta) * kl
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
    solvers = {"mean": _mean, "cvar": _cvar, "erm": _entropic}
    if risk.name not in solvers:
        raise InputError(f"risk {risk.spec!r}: no exact optimum; there are {', '.join(solvers)}")
    q, log_ref = torch.broadcast_tensors(q, log_ref)
    return solvers[risk.name](q, log_ref, risk.parameter or 0.0, beta)


def _mean(q: Tensor, log_ref: Tensor, _: float, beta: Number) -> Local:
    tilted = log_ref - q / beta
    norm = tilted.logsumexp(-1, keepdim=True)
    return Local(tilted - norm, -(beta * norm).squeeze(-1))


def _cvar(q: Tensor, log_ref: Tensor, level: float, beta: Number) -> Local:
    return _tail_averse(torch.zeros_like(q), q, log_ref, level, beta, 1.0)[0]


def _tail_averse(
    q: Tensor, q_cost: Tensor, log_ref: Tensor, level: float, beta: Number, lambda_: Number
) -> tuple[Local, Tensor]:
    """`argmin_p E_p[q] + lambda_ CVaR_p(q_cost) + beta KL(p || ref)`, its quantile [..., S].

    By `CVaR_p(c) = min_eta eta + E_p[(c - eta)_+]/(1-a)`: for given eta the best p is a tilt. What
    is left, for q = 0 and lambda_ = 1 `eta - beta log E_ref exp(-(c - eta)_+ / ((1-a) beta))`, is
    concave in eta between neighbouring costs: its derivative is `1 - P_p(c > eta)/(1-a)`, and there
    P_p(c > eta) grows with eta. So the minimum is at one of the V costs.
    """
    best: tuple[Tensor, ...] = ()
    for z in range(q_cost.shape[-1]):
        eta = q_cost[..., z]
        excess = (q_cost - eta.unsqueeze(-1)).clamp(min=0) / (1 - level)
        policy, rest = _mean(q + lambda_ * excess, log_ref, 0.0, beta)
        value = rest + _per_state(lambda_) * eta
        at_eta = (policy, value, eta.expand(value.shape))
        if best:
            better = value < best[1]
            masks = (better.unsqueeze(-1), better, better)
            best = tuple(torch.where(*each) for each in zip(masks, at_eta, best, strict=True))
        else:
            best = at_eta
    return Local(*best[:2]), best[2]


def _entropic(q: Tensor, log_ref: Tensor, mu: float, beta: Number) -> Local:
    """By `log m = min_k k m - 1 - log k`: for given k the best p is a tilt by `exp(mu q)`.

    With `k = exp(-mu c)` one unknown c between the least and the largest value of q is left:
    `c - 1/mu - beta log E_ref exp(-exp(mu (q - c)) / (mu beta))`, searched on a grid, then by
    golden section around its best point.
    """

    def at(c: Tensor) -> Local:
        local = _mean((mu * (q - c)).exp() / mu, log_ref, 0.0, beta)
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
