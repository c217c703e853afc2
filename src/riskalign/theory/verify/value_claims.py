"""Claims about nested values, one-step improvement and self-consistent control."""

import torch
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
from riskalign.theory.verify.claim import Claim, Errors, Setting, largest
from riskalign.theory.verify.trees import BETA, MEASURES, divergence, rivals, total_variation, trees


def _advantages(losses: Levels, log_ref: Levels, risk: Risk) -> tuple[Levels, Tensor]:
    """Advantages in gains, `V - Q` of the cost form, and the prompt's value in gains."""
    q, v = nested(losses, log_ref, risk)
    advantages = tuple(value.unsqueeze(-1) - action for action, value in zip(q, v, strict=True))
    return advantages, -v[0].squeeze(-1)


def telescoping(setting: Setting) -> Errors:
    """The advantages along a response against its return less the prompt's value."""
    found: Errors = {}
    for name in MEASURES:
        errors = []
        for mdp in trees(setting):
            advantages, value = _advantages(negate(mdp.reward), mdp.log_ref, get_risk(name))
            gain = accumulate(mdp.reward) - value.unsqueeze(-1)
            errors.append((accumulate(advantages) - gain).abs().amax())
        found[name] = largest(torch.stack(errors))
    return found


def optimality(setting: Setting) -> Errors:
    """The objective lost by any other policy is beta KL to the closed form, never negative."""
    found: Errors = {}
    for name in MEASURES:
        errors = []
        for mdp in trees(setting):
            q, _ = nested(mdp.cost, mdp.log_ref, get_risk(name))
            best = tilt(mdp.log_ref, q, BETA)
            objective = _objectives(best, q, mdp)
            for rival in rivals(best, 12, setting.seed):
                for own, other, best_t, rival_t in zip(
                    objective, _objectives(rival, q, mdp), best, rival, strict=True
                ):
                    lost = own - other
                    errors.append((lost - BETA * divergence(rival_t, best_t)).abs().amax())
                    errors.append((-lost).clamp(min=0).amax())
        found[name] = largest(torch.stack(errors))
    return found


def _objectives(policy: Levels, q: Levels, mdp: TokenMDP) -> list[Tensor]:
    return [
        -(own.exp() * action).sum(-1) - BETA * divergence(own, ref)
        for own, action, ref in zip(policy, q, mdp.log_ref, strict=True)
    ]


def implicit_reward(setting: Setting) -> Errors:
    """beta (log ratio + risk ratio) of the closed form against the advantage."""
    found: Errors = {}
    for name in MEASURES:
        risk = get_risk(name)
        on_values = value_scale(risk, BETA)
        errors = []
        for mdp in trees(setting):
            policy = one_step(mdp.cost, mdp.log_ref, on_values, BETA)
            advantages, _ = _advantages(mdp.cost, mdp.log_ref, on_values)
            for own, ref, advantage in zip(policy, mdp.log_ref, advantages, strict=True):
                implicit = BETA * (own - ref + risk_ratio(own, ref, risk))
                errors.append((implicit - advantage).abs().amax())
        found[name] = largest(torch.stack(errors))
    return found


def safer_everywhere(setting: Setting) -> Errors:
    """How far the safe step raises the nested risk of cost at any state, at any temperature."""
    found: Errors = {}
    for name in MEASURES:
        risk = get_risk(name)
        errors = []
        for mdp in trees(setting):
            q, before = nested(mdp.cost, mdp.log_ref, risk)
            for beta in (0.05, 0.5, 5.0):
                after = nested(mdp.cost, tilt(mdp.log_ref, q, beta), risk)[1]
                for new, old in zip(after, before, strict=True):
                    errors.append((new - old).clamp(min=0).amax())
        found[name] = largest(torch.stack(errors))
    return found


def total_tail(setting: Setting) -> Errors:
    """Share of trees whose CVaR 0.95 of total cost the safe step raises: no theorem forbids it."""
    found: Errors = {}
    for name in MEASURES:
        raised = []
        for mdp in trees(setting):
            before = tail_of_total(mdp, mdp.log_ref, 0.95).cvar
            for beta in (0.05, 0.5, 5.0):
                policy = one_step(mdp.cost, mdp.log_ref, get_risk(name), beta)
                raised.append(tail_of_total(mdp, policy, 0.95).cvar > before + 1e-12)
        found[name] = float(torch.cat(raised).double().mean())
    return found


def soft_control(setting: Setting) -> Errors:
    """The self-consistent optimum under the mean against the optimum over responses."""
    errors = []
    for mdp in trees(setting):
        control = self_consistent(mdp.cost, mdp.log_ref, get_risk("mean"), BETA)
        errors.append(total_variation(control, sequence_optimum(mdp.cost, mdp.log_ref, BETA)))
    return {"mean": largest(torch.cat(errors))}


def control_optimality(setting: Setting) -> Errors:
    """How far any other policy at a state beats `rho_p(Q) + beta KL(p || ref)`."""
    found: Errors = {}
    for name in MEASURES:
        risk = get_risk(name)
        errors = []
        for mdp in trees(setting):
            policy = self_consistent(mdp.cost, mdp.log_ref, risk, BETA)
            q, v = _control_values(policy, mdp, risk)
            for rival in rivals(policy, 24, setting.seed, 2.0):
                for own, action, ref, value in zip(rival, q, mdp.log_ref, v, strict=True):
                    other = risk(action, own).value + BETA * divergence(own, ref)
                    errors.append((value - other).clamp(min=0).amax())
        found[name] = largest(torch.stack(errors))
    return found


def _control_values(policy: Levels, mdp: TokenMDP, risk: Risk) -> tuple[Levels, Levels]:
    """`Q` and `V = rho_pi(Q) + beta KL` of a policy, by their definition."""
    q: list[Tensor] = []
    v: list[Tensor] = []
    below: Tensor | None = None
    for own, cost, ref in zip(
        reversed(policy), reversed(mdp.cost), reversed(mdp.log_ref), strict=True
    ):
        action = cost if below is None else cost + below.unflatten(-1, (-1, cost.shape[-1]))
        below = risk(action, own).value + BETA * divergence(own, ref)
        q.append(action)
        v.append(below)
    return tuple(reversed(q)), tuple(reversed(v))


def tail_oracle(setting: Setting) -> Errors:
    """CVaR of the total cost by sorting the leaves against the library's search."""
    found: Errors = {}
    for level in (0.5, 0.9, 0.95, 0.99):
        errors = []
        for mdp in trees(setting):
            cvar = tail_of_total(mdp, mdp.log_ref, level).cvar
            by_search = get_risk(f"cvar:{level}")(
                accumulate(mdp.cost), accumulate(mdp.log_ref)
            ).value
            errors.append((cvar - by_search).abs())
        found[f"cvar:{level}"] = largest(torch.cat(errors))
    return found


CLAIMS = (
    Claim("telescoping", "values", "Σ A(s_t, y_t) = G(y) - V(x)", telescoping, 1e-10),
    Claim(
        "optimal", "values", "π* loses to no policy: the rest lose β KL(p ‖ π*)", optimality, 1e-10
    ),
    Claim("implicit", "values", "β log π*/π_ref + β ρ(log π_ref/π*) = A", implicit_reward, 1e-10),
    Claim(
        "safer", "values", "the safe step raises nested risk at no state", safer_everywhere, 1e-10
    ),
    Claim(
        "total-tail", "values", "share of trees where it raises CVaR 0.95 of total cost",
        total_tail, 0.0, "reported",
    ),
    Claim("soft", "values", "the mean's self-consistent optimum = SACPO's", soft_control, 1e-10),
    Claim(
        "consistent", "values", "no policy beats the self-consistent one at a state",
        control_optimality, 1e-9,
    ),
    Claim("tail", "values", "CVaR of total cost: sorting = searching", tail_oracle, 1e-10),
)  # fmt: skip
