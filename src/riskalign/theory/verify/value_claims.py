"""Claims about nested values, one-step improvement and self-consistent control."""

from collections.abc import Iterator

from torch import Tensor

from riskalign.risk import Risk, get_risk
from riskalign.theory import (
    Levels,
    TokenMDP,
    accumulate,
    nested,
    one_step,
    self_consistent,
    sequence_optimum,
    tilt,
)
from riskalign.theory.evaluate import risk_ratio, tail_of_total
from riskalign.theory.solve import negate, value_scale
from riskalign.theory.tree import induce
from riskalign.theory.verify.claim import (
    BETA,
    MEASURES,
    Errors,
    Setting,
    claim,
    divergence,
    measures,
    over_trees,
    rivals,
    total_variation,
)


def _advantages(losses: Levels, log_ref: Levels, risk: Risk) -> tuple[Levels, Tensor]:
    """Advantages in gains, `V - Q` of the cost form, and the prompt's value in gains."""
    q, v = nested(losses, log_ref, risk)
    advantages = tuple(value.unsqueeze(-1) - action for action, value in zip(q, v, strict=True))
    return advantages, -v[0].squeeze(-1)


@claim("values", "telescoping", "Σ A(s_t, y_t) = G(y) - V(x)", 1e-10, cases=MEASURES)
def telescoping(mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
    """The advantages along a response against its return less the prompt's value."""
    advantages, value = _advantages(negate(mdp.reward), mdp.log_ref, risk)
    gain = accumulate(mdp.reward) - value.unsqueeze(-1)
    yield (accumulate(advantages) - gain).abs()


@claim("values", "optimal", "π* loses to no policy: the rest lose β KL(p ‖ π*)", 1e-10)
def optimality(setting: Setting) -> Errors:
    """The objective lost by any other policy is beta KL to the closed form, never negative."""

    def errors(mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
        q, _ = nested(mdp.cost, mdp.log_ref, risk)
        best = tilt(mdp.log_ref, q, BETA)
        objective = _objectives(best, q, mdp)
        for rival in rivals(best, 12, setting.seed):
            others = _objectives(rival, q, mdp)
            for most, other, best_t, rival_t in zip(objective, others, best, rival, strict=True):
                lost = most - other
                yield (lost - BETA * divergence(rival_t, best_t)).abs()
                yield (-lost).clamp(min=0)

    return over_trees(setting, MEASURES, errors)


def _objectives(policy: Levels, q: Levels, mdp: TokenMDP) -> list[Tensor]:
    return [
        -(level.exp() * action).sum(-1) - BETA * divergence(level, ref)
        for level, action, ref in zip(policy, q, mdp.log_ref, strict=True)
    ]


@claim("values", "implicit", "β log π*/π_ref + β ρ(log π_ref/π*) = A", 1e-10, cases=MEASURES)
def implicit_reward(mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
    """beta (log ratio + risk ratio) of the closed form against the advantage."""
    on_values = value_scale(risk, BETA)
    policy = one_step(mdp.cost, mdp.log_ref, on_values, BETA)
    advantages, _ = _advantages(mdp.cost, mdp.log_ref, on_values)
    for level, ref, advantage in zip(policy, mdp.log_ref, advantages, strict=True):
        yield (BETA * (level - ref + risk_ratio(level, ref, risk)) - advantage).abs()


@claim("values", "safer", "the safe step raises nested risk at no state", 1e-10, cases=MEASURES)
def safer_everywhere(mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
    """How far the safe step raises the nested risk of cost at any state, at any temperature."""
    q, before = nested(mdp.cost, mdp.log_ref, risk)
    for beta in (0.05, 0.5, 5.0):
        _, after = nested(mdp.cost, tilt(mdp.log_ref, q, beta), risk)
        for new, old in zip(after, before, strict=True):
            yield (new - old).clamp(min=0)


@claim(
    "values",
    "total-tail",
    "share of trees where it raises CVaR 0.95 of total cost",
    bound="reported",
    cases=MEASURES,
)
def total_tail(mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
    """Share of trees whose CVaR 0.95 of total cost the safe step raises: no theorem forbids it."""
    before = tail_of_total(mdp, mdp.log_ref, 0.95).cvar
    for beta in (0.05, 0.5, 5.0):
        policy = one_step(mdp.cost, mdp.log_ref, risk, beta)
        yield (tail_of_total(mdp, policy, 0.95).cvar > before + 1e-12).double()


@claim(
    "values",
    "soft",
    "the mean's self-consistent optimum = SACPO's",
    1e-10,
    cases={"mean": get_risk("mean")},
)
def soft_control(mdp: TokenMDP, mean: Risk) -> Iterator[Tensor]:
    """The self-consistent optimum under the mean against the optimum over responses."""
    control = self_consistent(mdp.cost, mdp.log_ref, mean, BETA)
    yield total_variation(control, sequence_optimum(mdp.cost, mdp.log_ref, BETA))


@claim("values", "consistent", "no policy beats the self-consistent one at a state", 1e-9)
def control_optimality(setting: Setting) -> Errors:
    """How far any other policy at a state beats `rho_p(Q) + beta KL(p || ref)`."""

    def errors(mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
        def objective(q: Tensor, policy: Tensor, ref: Tensor) -> Tensor:
            return risk(q, policy).value + BETA * divergence(policy, ref)

        policy = self_consistent(mdp.cost, mdp.log_ref, risk, BETA)
        q, v = induce(
            lambda q, *levels: (q, objective(q, *levels)), [mdp.cost], policy, mdp.log_ref
        )
        for rival in rivals(policy, 24, setting.seed, 2.0):
            for action, other, ref, value in zip(q, rival, mdp.log_ref, v, strict=True):
                yield (value - objective(action, other, ref)).clamp(min=0)

    return over_trees(setting, MEASURES, errors)


@claim(
    "values",
    "tail",
    "CVaR of total cost: sorting = searching",
    1e-10,
    cases=measures("cvar:0.5", "cvar:0.9", "cvar:0.95", "cvar:0.99"),
)
def tail_oracle(mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
    """CVaR of the total cost by sorting the leaves against the library's search."""
    sorted_ = tail_of_total(mdp, mdp.log_ref, risk.parameter or 0.0).cvar
    yield (sorted_ - risk(accumulate(mdp.cost), accumulate(mdp.log_ref)).value).abs()
