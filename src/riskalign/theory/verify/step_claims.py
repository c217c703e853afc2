"""Claims about the two steps, the constraint and the drift."""

import torch
from torch import Tensor

from riskalign.risk import get_risk
from riskalign.theory import (
    Levels,
    TokenMDP,
    at_each_state,
    joint,
    nested,
    on_average,
    over_responses,
    tilt,
    two_step,
)
from riskalign.theory.solve import negate, printed_sign
from riskalign.theory.tree import expected_sum, visits
from riskalign.theory.verify.claim import Claim, Errors, Setting, largest, smallest
from riskalign.theory.verify.trees import BETA, MEASURES, divergence, total_variation, trees

LAMBDAS = (0.3, 1.0, 4.0)


def values(mdp: TokenMDP, name: str) -> tuple[Levels, Levels]:
    """Both nested values under the reference in cost form, reward and cost."""
    risk = get_risk(name)
    return nested(negate(mdp.reward), mdp.log_ref, risk)[0], nested(mdp.cost, mdp.log_ref, risk)[0]


def _steps_against_joint(setting: Setting, schedule: str) -> Errors:
    found: Errors = {}
    for name in MEASURES:
        risk = get_risk(name)
        errors = []
        for mdp in trees(setting):
            q_loss, q_cost = values(mdp, name)
            for lambda_ in LAMBDAS:
                price = BETA * (1 + lambda_) if schedule == "both" else BETA
                weight = lambda_ / (1 + lambda_) if schedule == "paper" else lambda_
                best = joint(mdp, q_loss, q_cost, price, weight)
                _, second = two_step(mdp, risk, risk, BETA, lambda_, schedule)
                errors.append(total_variation(second, best))
        found[name] = largest(torch.cat(errors))
    return found


def objective_schedule(setting: Setting) -> Errors:
    """Two steps against the joint optimum at price beta."""
    return _steps_against_joint(setting, "objective")


def both_schedule(setting: Setting) -> Errors:
    """Two steps against the joint optimum at price (1 + lambda) beta."""
    return _steps_against_joint(setting, "both")


def paper_schedule(setting: Setting) -> Errors:
    """The printed temperatures against `objective` at lambda / (1 + lambda)."""
    return _steps_against_joint(setting, "paper")


def order_reversed(setting: Setting) -> Errors:
    """Safe first, then helpful, against helpful first."""
    found: Errors = {}
    for name in MEASURES:
        errors = []
        for mdp in trees(setting):
            q_loss, q_cost = values(mdp, name)
            one = tilt(tilt(mdp.log_ref, q_loss, BETA), q_cost, BETA / 2)
            other = tilt(tilt(mdp.log_ref, q_cost, BETA / 2), q_loss, BETA)
            errors.append(total_variation(one, other))
        found[name] = largest(torch.cat(errors))
    return found


def printed_plus(setting: Setting) -> Errors:
    """How much the printed sign raises the expected cost at every state where costs differ."""
    found: Errors = {}
    for name in MEASURES:
        gaps = []
        for mdp in trees(setting):
            _, q_cost = values(mdp, name)
            for ref, q in zip(mdp.log_ref, q_cost, strict=True):
                raised = ((printed_sign(q, ref, BETA, 1.0).exp() - ref.exp()) * q).sum(-1)
                differ = (q.amax(-1) - q.amin(-1)) > 1e-6
                gaps.append(raised[differ])
        found[name] = smallest(torch.cat(gaps))
    return found


def two_actions(setting: Setting) -> Errors:
    """Costs 0 and 1, uniform reference, lambda = beta = 1: 0.622 as printed, 0.378 optimal."""
    ref = torch.full((1, 2), 0.5, dtype=torch.float64).log()
    cost = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    mdp = TokenMDP((ref,), (torch.zeros_like(cost),), (cost,))
    mean = get_risk("mean")
    printed = printed_sign(cost, ref, 1.0, 1.0).exp()[0, 1]
    _, optimum = two_step(mdp, mean, mean, 1.0, 1.0, "paper")
    by_hand = 1 / (1 + torch.exp(torch.tensor([-0.5, 0.5], dtype=torch.float64)))
    pair = torch.stack([printed, optimum[0].exp()[0, 1]])
    return {
        "printed": float(abs(pair[0] - by_hand[0])),
        "optimum": float(abs(pair[1] - by_hand[1])),
    }


def constraint_met(setting: Setting) -> Errors:
    """Excess over the limit at lambda*, complementary slackness and the gap to the dual."""
    found: Errors = {}
    for name in MEASURES:
        errors = []
        for mdp in trees(setting):
            q_loss, q_cost = values(mdp, name)
            for ref, loss, cost in zip(mdp.log_ref, q_loss, q_cost, strict=True):
                # Half of the way from the reference's value to the least there is.
                limit = ((ref.exp() * cost).sum(-1) + cost.amin(-1)) / 2
                solved = at_each_state(ref, loss, cost, BETA, limit)
                errors += [_excess(solved.value, limit), solved.slackness.amax()]
                errors.append(_duality_gap(ref, loss, cost, limit, solved.multiplier))
            errors += _shared_multiplier(mdp, q_loss, q_cost)
        found[name] = largest(torch.stack(errors))
    errors = []
    for mdp in trees(setting):
        limit = expected_sum(mdp.cost, mdp.log_ref) / 2
        best = over_responses(mdp, BETA, limit)
        errors += [_excess(best.value, limit), best.slackness.amax()]
    found["whole responses"] = largest(torch.stack(errors))
    return found


def _shared_multiplier(mdp: TokenMDP, q_loss: Levels, q_cost: Levels) -> list[Tensor]:
    """One multiplier for all states: excess, slackness, distance from the joint optimum at it."""
    no_limit = q_cost[0].new_full(q_cost[0].shape[:1], torch.inf)
    highest = on_average(mdp.log_ref, q_loss, q_cost, BETA, no_limit).value
    lowest = sum(
        (at * cost.amin(-1)).sum(-1) for at, cost in zip(visits(mdp.log_ref), q_cost, strict=True)
    )
    limit = (highest + lowest) / 2
    solved = on_average(mdp.log_ref, q_loss, q_cost, BETA, limit)
    shared = joint(mdp, q_loss, q_cost, BETA, solved.multiplier[:, None, None])
    apart = total_variation(solved.log_policy, shared).amax()
    return [_excess(solved.value, limit), solved.slackness.amax(), apart]


def _excess(value: Tensor, limit: Tensor) -> Tensor:
    return (value - limit).clamp(min=0).amax()


def _duality_gap(
    ref: Tensor, loss: Tensor, cost: Tensor, limit: Tensor, multiplier: Tensor
) -> Tensor:
    """Primal value at the policy of lambda* less the dual's value there."""
    exponent = (loss + multiplier.unsqueeze(-1) * cost) / BETA
    policy = (ref - exponent).log_softmax(-1)
    primal = (policy.exp() * loss).sum(-1) + BETA * divergence(policy, ref)
    dual = -BETA * (ref - exponent).logsumexp(-1) - multiplier * limit
    return (primal - dual).abs().amax()


def drift_bound(setting: Setting) -> Errors:
    """How far KL and moved values exceed the bounds of docs/theory.md, section 3."""
    found: Errors = {}
    for name in MEASURES:
        errors = []
        for mdp in trees(setting):
            q_loss, q_cost = values(mdp, name)
            for lambda_ in LAMBDAS:
                first = tilt(mdp.log_ref, q_loss, BETA)
                second = tilt(first, q_cost, BETA / lambda_)
                total = mdp.reward[0].new_zeros(())
                for one, two, q in zip(first, second, q_cost, strict=True):
                    width = (q.amax(-1) - q.amin(-1)) * lambda_ / BETA
                    bound = torch.minimum(width**2 / 8, width)
                    errors.append((divergence(two, one) - bound).clamp(min=0).amax())
                    total = total + bound.flatten(1).amax(-1)
                drift = tuple(two - one for one, two in zip(first, second, strict=True))
                kl = expected_sum(drift, second)
                errors.append((kl - total).clamp(min=0).amax())
                moved = expected_sum(mdp.reward, first) - expected_sum(mdp.reward, second)
                reach = sum(level.flatten(1).abs().amax(-1) for level in mdp.reward) * 2
                errors.append((moved - reach * (kl / 2).sqrt()).clamp(min=0).amax())
        found[name] = largest(torch.stack(errors))
    return found


CLAIMS = (
    Claim(
        "objective", "steps", "two steps = the joint optimum (objective)", objective_schedule, 1e-10
    ),
    Claim("both", "steps", "two steps = the joint optimum (both)", both_schedule, 1e-10),
    Claim("paper", "steps", "paper = objective at λ/(1+λ)", paper_schedule, 1e-10),
    Claim("order", "steps", "safe first = helpful first, for fixed values", order_reversed, 1e-10),
    Claim("sign", "steps", "the printed plus sign raises cost", printed_plus, 1e-12, "at least"),
    Claim(
        "two-actions", "steps", "two actions: 0.622 as printed, 0.378 optimal", two_actions, 1e-12
    ),
    Claim(
        "constraint",
        "steps",
        "at λ* the limit holds, slackness and duality gap 0",
        constraint_met,
        1e-8,
    ),
    Claim("drift", "steps", "KL and lost reward stay inside the proved bounds", drift_bound, 1e-10),
)
