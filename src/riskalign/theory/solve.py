"""Closed-form policies on a tree: one RSA step, two steps, and the risk-neutral optima.

Costs and rewards enter as values of actions in cost form ("losses", lower is better), so that a
step that raises reward and one that lowers cost are the same function. Temperatures and
multipliers are numbers, or tensors that broadcast with the levels.
"""

import torch
from torch import Tensor

from riskalign.errors import InputError
from riskalign.pipeline.schedule import temperatures
from riskalign.risk import Risk
from riskalign.theory.tree import Levels, Measure, TokenMDP, combine, induce, nested, tilt

Number = Tensor | float


def negate(levels: Levels) -> Levels:
    """A reward in cost form, or the reverse."""
    return tuple(-level for level in levels)


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

    def step(q: Tensor, log_ref: Tensor) -> tuple[Tensor, Tensor]:
        tilted = log_ref - q / beta
        norm = tilted.logsumexp(-1, keepdim=True)
        return tilted - norm, -(beta * norm).squeeze(-1)

    return induce(step, [losses], log_ref)[0]


def iterated(losses: Levels, log_ref: Levels, risk: Measure, beta: Number, rounds: int) -> Levels:
    """`rounds` one-step improvements at `rounds * beta`, each with values under its predecessor.

    What rounds of training on fresh samples do; together they tilt as far as one step at `beta`.
    """
    policy = log_ref
    for _ in range(rounds):
        policy = one_step(losses, policy, risk, rounds * beta)
    return policy


def printed_sign(q_cost: Tensor, log_ref: Tensor, beta: Number, lambda_: Number) -> Tensor:
    """RSA's v1 equation 12 as printed: `ref * exp(+Q_c / beta')`, `beta' = beta (1+λ)/λ`.

    Kept to show by computation that it raises the cost (docs/method.md, section 7).
    """
    return (log_ref + q_cost * lambda_ / ((1 + lambda_) * beta)).log_softmax(-1)
