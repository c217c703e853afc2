"""Claims about the two steps, the constraint, the drift, and the dial between the steps."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from riskalign.risk import Risk, get_risk
from riskalign.theory import (
    Levels,
    TokenMDP,
    at_each_state,
    joint,
    mix,
    nested,
    on_average,
    over_responses,
    tilt,
    two_step,
)
from riskalign.theory.dual import Constrained
from riskalign.theory.solve import negate, printed_sign
from riskalign.theory.tree import combine, expected_sum, visits
from riskalign.theory.verify.claim import (
    BETA,
    MEASURES,
    Errors,
    Setting,
    claim,
    divergence,
    over_trees,
    total_variation,
)

LAMBDAS = (0.3, 1.0, 4.0)
_WIDTH = 8  # numbers that a state is described by in the small network


def values(mdp: TokenMDP, risk: Risk) -> tuple[Levels, Levels]:
    """Both nested values under the reference in cost form, reward and cost."""
    return nested(negate(mdp.reward), mdp.log_ref, risk)[0], nested(mdp.cost, mdp.log_ref, risk)[0]


def against_joint(schedule: str, mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
    """Two steps against the joint optimum at the price and weight that a schedule stands for."""
    q_loss, q_cost = values(mdp, risk)
    for lambda_ in LAMBDAS:
        price = BETA * (1 + lambda_) if schedule == "both" else BETA
        weight = lambda_ / (1 + lambda_) if schedule == "paper" else lambda_
        best = joint(mdp, q_loss, q_cost, price, weight)
        _, second = two_step(mdp, risk, risk, BETA, lambda_, schedule)
        yield total_variation(second, best)


for _schedule, _statement in (
    ("objective", "two steps = the joint optimum (objective)"),
    ("both", "two steps = the joint optimum (both)"),
    ("paper", "paper = objective at λ/(1+λ)"),
):
    claim("steps", _schedule, _statement, 1e-10, cases=MEASURES)(partial(against_joint, _schedule))


@claim("steps", "order", "safe first = helpful first, for fixed values", 1e-10, cases=MEASURES)
def order_reversed(mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
    """Safe first, then helpful, against helpful first."""
    q_loss, q_cost = values(mdp, risk)
    one = tilt(tilt(mdp.log_ref, q_loss, BETA), q_cost, BETA / 2)
    yield total_variation(one, tilt(tilt(mdp.log_ref, q_cost, BETA / 2), q_loss, BETA))


@claim("steps", "sign", "the printed plus sign raises cost", 1e-12, "at least", cases=MEASURES)
def printed_plus(mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
    """How much the printed sign raises the expected cost at every state where costs differ."""
    for ref, q in zip(mdp.log_ref, values(mdp, risk)[1], strict=True):
        raised = ((printed_sign(q, ref, BETA, 1.0).exp() - ref.exp()) * q).sum(-1)
        yield raised[(q.amax(-1) - q.amin(-1)) > 1e-6]


@claim("steps", "two-actions", "two actions: 0.622 as printed, 0.378 optimal", 1e-12)
def two_actions(setting: Setting) -> Errors:
    """Costs 0 and 1, uniform reference, lambda = beta = 1: 0.622 as printed, 0.378 optimal."""
    ref = torch.full((1, 2), 0.5, dtype=torch.float64).log()
    cost = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    mdp = TokenMDP((ref,), (torch.zeros_like(cost),), (cost,))
    mean = get_risk("mean")
    printed = printed_sign(cost, ref, 1.0, 1.0)
    _, (optimum,) = two_step(mdp, mean, mean, 1.0, 1.0, "paper")
    by_hand = 1 / (1 + torch.exp(torch.tensor([-0.5, 0.5], dtype=torch.float64)))
    return {
        name: float(abs(log_probs.exp()[0, 1] - expected))
        for name, log_probs, expected in zip(
            ("printed", "optimum"), (printed, optimum), by_hand, strict=True
        )
    }


@claim("steps", "constraint", "at λ* the limit holds, slackness and duality gap 0", 1e-8)
def constraint_met(setting: Setting) -> Errors:
    """Excess over the limit at lambda*, complementary slackness and the gap to the dual."""
    by_measure = over_trees(setting, MEASURES, _constrained)
    return by_measure | over_trees(setting, {"whole responses": None}, _constrained_responses)


def _constrained(mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
    q_loss, q_cost = values(mdp, risk)
    for ref, loss, cost in zip(mdp.log_ref, q_loss, q_cost, strict=True):
        # Half of the way from the reference's value to the least there is.
        limit = ((ref.exp() * cost).sum(-1) + cost.amin(-1)) / 2
        solved = at_each_state(ref, loss, cost, BETA, limit)
        yield from _missed(solved)
        yield _duality_gap(ref, loss, cost, limit, solved.multiplier)
    # One multiplier for all states is the joint optimum's.
    no_limit = q_cost[0].new_full(q_cost[0].shape[:1], torch.inf)
    highest = on_average(mdp.log_ref, q_loss, q_cost, BETA, no_limit).value
    reached = zip(visits(mdp.log_ref), q_cost, strict=True)
    limit = (highest + sum((at * cost.amin(-1)).sum(-1) for at, cost in reached)) / 2
    solved = on_average(mdp.log_ref, q_loss, q_cost, BETA, limit)
    yield from _missed(solved)
    shared = joint(mdp, q_loss, q_cost, BETA, solved.multiplier[:, None, None])
    yield total_variation(solved.log_policy, shared)


def _constrained_responses(mdp: TokenMDP, _: None) -> Iterator[Tensor]:
    yield from _missed(over_responses(mdp, BETA, expected_sum(mdp.cost, mdp.log_ref) / 2))


def _missed(solved: Constrained) -> Iterator[Tensor]:
    yield (solved.value - solved.limit).clamp(min=0)
    yield solved.slackness


def _duality_gap(
    ref: Tensor, loss: Tensor, cost: Tensor, limit: Tensor, multiplier: Tensor
) -> Tensor:
    """Primal value at the policy of lambda* less the dual's value there."""
    exponent = (loss + multiplier.unsqueeze(-1) * cost) / BETA
    policy = (ref - exponent).log_softmax(-1)
    primal = (policy.exp() * loss).sum(-1) + BETA * divergence(policy, ref)
    dual = -BETA * (ref - exponent).logsumexp(-1) - multiplier * limit
    return (primal - dual).abs()


@claim("steps", "drift", "KL and lost reward stay inside the proved bounds", 1e-10, cases=MEASURES)
def drift_bound(mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
    """How far KL and moved values exceed the bounds of docs/theory.md, section 3."""
    q_loss, q_cost = values(mdp, risk)
    reach = sum(level.flatten(1).abs().amax(-1) for level in mdp.reward) * 2
    for lambda_ in LAMBDAS:
        first = tilt(mdp.log_ref, q_loss, BETA)
        second = tilt(first, q_cost, BETA / lambda_)
        total = mdp.reward[0].new_zeros(())
        for one, two, q in zip(first, second, q_cost, strict=True):
            width = (q.amax(-1) - q.amin(-1)) * lambda_ / BETA
            bound = torch.minimum(width**2 / 8, width)
            yield (divergence(two, one) - bound).clamp(min=0)
            total = total + bound.flatten(1).amax(-1)
        kl = expected_sum(combine(second, first, 1.0, -1.0), second)
        yield (kl - total).clamp(min=0)
        moved = expected_sum(mdp.reward, first) - expected_sum(mdp.reward, second)
        yield (moved - reach * (kl / 2).sqrt()).clamp(min=0)


@claim("dial", "dial", "π₁^(1-w) π₂^w = the optimum at wλ", 1e-10, cases=MEASURES)
def dial(mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
    """The product of powers against the optimum for `w lambda`, inside and outside of [0, 1]."""
    q_loss, q_cost = values(mdp, risk)
    for lambda_ in LAMBDAS:
        first, second = two_step(mdp, risk, risk, BETA, lambda_)
        for w in (0.25, 0.5, 1.5, 3.0):
            best = joint(mdp, q_loss, q_cost, BETA, w * lambda_)
            yield total_variation(mix(first, second, w), best)


@claim(
    "dial",
    "weights",
    "averaging weights misses the dial by (mean total variation)",
    bound="reported",
    cases={f"w = {w:g}": w for w in (0.25, 0.5, 0.75, 1.5)},
)
def weight_average(mdp: TokenMDP, w: float) -> Iterator[Tensor]:
    """Total variation, at the mean state, between averaged weights and the dial."""
    mean = get_risk("mean")
    first, second = two_step(mdp, mean, mean, BETA, 1.0)
    one = _fitted(first)
    two = _fitted(second, one)
    merged = _network([a.lerp(b, w) for a, b in zip(one, two, strict=True)])
    [dialled] = mix((_network(one),), (_network(two),), w)
    yield (merged.exp() - dialled.exp()).abs().sum(-1) / 2


def _network(weights: list[Tensor]) -> Tensor:
    """Policies of many trees: each state's vector through tanh and a head that states share."""
    states, head = weights
    return (states.tanh() @ head).log_softmax(-1)


def _fitted(target: Levels, start: list[Tensor] | None = None) -> list[Tensor]:
    """Weights of networks for the policies `target`, from `start`, else the same random ones."""
    rows = torch.cat(target, dim=-2)
    if start is None:
        generator = torch.Generator().manual_seed(0)
        count, states, vocabulary = rows.shape
        shapes = [(count, states, _WIDTH), (count, _WIDTH, vocabulary)]
        start = [torch.randn(shape, generator=generator, dtype=rows.dtype) for shape in shapes]
    weights = [weight.clone().requires_grad_() for weight in start]
    descent = torch.optim.LBFGS(
        weights,
        max_iter=250,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
    )

    def closure() -> Tensor:
        descent.zero_grad()
        loss = (rows.exp() * (rows - _network(weights))).sum()
        loss.backward()
        return loss

    descent.step(closure)
    return [weight.detach() for weight in weights]
