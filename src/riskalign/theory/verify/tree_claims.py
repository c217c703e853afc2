"""Claims about nested values and their optima, the two steps, the constraint and the dial."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from riskalign.risk import Risk, get_risk
from riskalign.theory import solve, tree
from riskalign.theory.evaluate import risk_ratio, tail_of_total
from riskalign.theory.tree import Levels, TokenMDP, accumulate, combine, expected_sum, nested, tilt
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
    trees,
)

LAMBDAS = (0.3, 1.0, 4.0)
_WIDTH = 8  # numbers that a state is described by in the small network


def _advantages(losses: Levels, log_ref: Levels, risk: Risk) -> tuple[Levels, Tensor]:
    """Advantages in gains, `V - Q` of the cost form, and the prompt's value in gains."""
    q, v = nested(losses, log_ref, risk)
    return combine(tuple(value.unsqueeze(-1) for value in v), q, 1.0, -1.0), -v[0].squeeze(-1)


@claim("values", "telescoping", "Σ A(s_t, y_t) = G(y) - V(x)", 1e-10, cases=MEASURES)
def telescoping(mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
    """The advantages along a response against its return less the prompt's value."""
    advantages, value = _advantages(tree.negate(mdp.reward), mdp.log_ref, risk)
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
    on_values = solve.value_scale(risk, BETA)
    policy = solve.one_step(mdp.cost, mdp.log_ref, on_values, BETA)
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
        policy = solve.one_step(mdp.cost, mdp.log_ref, risk, beta)
        yield (tail_of_total(mdp, policy, 0.95).cvar > before + 1e-12).double()


@claim(
    "values",
    "soft",
    "the mean's self-consistent optimum = SACPO's",
    1e-10,
    cases={"mean": get_risk("mean")},
)
def soft_control(mdp: TokenMDP, mean: Risk) -> Iterator[Tensor]:
    """The self-consistent optimum under the mean against the tilt of whole responses."""
    control = solve.self_consistent(mdp.cost, mdp.log_ref, mean, BETA)
    whole = tree.accumulate(mdp.log_ref) - tree.accumulate(mdp.cost) / BETA
    yield (tree.accumulate(control).exp() - whole.softmax(-1)).abs().sum(-1) / 2


@claim("values", "consistent", "no policy beats the self-consistent one at a state", 1e-9)
def control_optimality(setting: Setting) -> Errors:
    """How far any other policy at a state beats `rho_p(Q) + beta KL(p || ref)`."""

    def errors(mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
        def objective(q: Tensor, policy: Tensor, ref: Tensor) -> Tensor:
            return risk(q, policy).value + BETA * divergence(policy, ref)

        policy = solve.self_consistent(mdp.cost, mdp.log_ref, risk, BETA)
        q, v = tree.induce(
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


def values(mdp: TokenMDP, risk: Risk) -> tuple[Levels, Levels]:
    """Both nested values under the reference in cost form, reward and cost."""
    return nested(tree.negate(mdp.reward), mdp.log_ref, risk)[0], nested(
        mdp.cost, mdp.log_ref, risk
    )[0]


def against_joint(schedule: str, mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
    """Two steps against the joint optimum at the price and weight that a schedule stands for."""
    q_loss, q_cost = values(mdp, risk)
    for lambda_ in LAMBDAS:
        price = BETA * (1 + lambda_) if schedule == "both" else BETA
        weight = lambda_ / (1 + lambda_) if schedule == "paper" else lambda_
        best = solve.joint(mdp, q_loss, q_cost, price, weight)
        _, second = solve.two_step(mdp, risk, risk, BETA, lambda_, schedule)
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


def _printed_sign(q_cost: Tensor, log_ref: Tensor, beta: float, lambda_: float) -> Tensor:
    """RSA's v1 equation 12 as printed: `ref * exp(+Q_c / beta')`, `beta' = beta (1+λ)/λ`.

    Kept to show by computation that it raises the cost (docs/method.md, section 7).
    """
    return (log_ref + q_cost * lambda_ / ((1 + lambda_) * beta)).log_softmax(-1)


@claim("steps", "sign", "the printed plus sign raises cost", 1e-12, "at least", cases=MEASURES)
def printed_plus(mdp: TokenMDP, risk: Risk) -> Iterator[Tensor]:
    """How much the printed sign raises the expected cost at every state where costs differ."""
    for ref, q in zip(mdp.log_ref, values(mdp, risk)[1], strict=True):
        raised = ((_printed_sign(q, ref, BETA, 1.0).exp() - ref.exp()) * q).sum(-1)
        yield raised[(q.amax(-1) - q.amin(-1)) > 1e-6]


@claim("steps", "two-actions", "two actions: 0.622 as printed, 0.378 optimal", 1e-12)
def two_actions(setting: Setting) -> Errors:
    """Costs 0 and 1, uniform reference, lambda = beta = 1: 0.622 as printed, 0.378 optimal."""
    ref = torch.full((1, 2), 0.5, dtype=torch.float64).log()
    cost = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    mdp = TokenMDP((ref,), (torch.zeros_like(cost),), (cost,))
    mean = get_risk("mean")
    printed = _printed_sign(cost, ref, 1.0, 1.0)
    _, (optimum,) = solve.two_step(mdp, mean, mean, 1.0, 1.0, "paper")
    by_hand = 1 / (1 + torch.exp(torch.tensor([-0.5, 0.5], dtype=torch.float64)))
    missed = (torch.cat([printed, optimum]).exp()[:, 1] - by_hand).abs()
    return dict(zip(("printed", "optimum"), missed.tolist(), strict=True))


@claim("steps", "constraint", "at λ* the limit holds, slackness and duality gap 0", 1e-8)
def constraint_met(setting: Setting) -> Errors:
    """Excess over the limit at lambda*, complementary slackness and the gap to the dual."""
    return over_trees(setting, {**MEASURES, "whole responses": None}, _constrained)


def _constrained(mdp: TokenMDP, risk: Risk | None) -> Iterator[Tensor]:
    if risk is None:
        limit = expected_sum(mdp.cost, mdp.log_ref) / 2
        yield from _missed(solve.over_responses(mdp, BETA, limit))
        return
    q_loss, q_cost = values(mdp, risk)
    for ref, loss, cost in zip(mdp.log_ref, q_loss, q_cost, strict=True):
        # Half of the way from the reference's value to the least there is.
        limit = ((ref.exp() * cost).sum(-1) + cost.amin(-1)) / 2
        solved = solve.at_each_state(ref, loss, cost, BETA, limit)
        yield from _missed(solved)
        # The primal value at the policy of lambda* less the dual's value there.
        exponent = (loss + solved.multiplier.unsqueeze(-1) * cost) / BETA
        policy = (ref - exponent).log_softmax(-1)
        primal = (policy.exp() * loss).sum(-1) + BETA * divergence(policy, ref)
        dual = -BETA * (ref - exponent).logsumexp(-1) - solved.multiplier * limit
        yield (primal - dual).abs()
    # One multiplier for all states is the joint optimum's.
    no_limit = q_cost[0].new_full(q_cost[0].shape[:1], torch.inf)
    highest = solve.on_average(mdp.log_ref, q_loss, q_cost, BETA, no_limit).value
    reached = zip(tree.visits(mdp.log_ref), q_cost, strict=True)
    limit = (highest + sum((at * cost.amin(-1)).sum(-1) for at, cost in reached)) / 2
    solved = solve.on_average(mdp.log_ref, q_loss, q_cost, BETA, limit)
    yield from _missed(solved)
    shared = solve.joint(mdp, q_loss, q_cost, BETA, solved.multiplier[:, None, None])
    yield total_variation(solved.log_policy, shared)


def _missed(solved: solve.Constrained) -> Iterator[Tensor]:
    yield (solved.value - solved.limit).clamp(min=0)
    yield solved.slackness


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
        first, second = solve.two_step(mdp, risk, risk, BETA, lambda_)
        for w in (0.25, 0.5, 1.5, 3.0):
            best = solve.joint(mdp, q_loss, q_cost, BETA, w * lambda_)
            yield total_variation(tree.mix(first, second, w), best)


@claim(
    "dial",
    "weights",
    "averaging weights misses the dial by (mean total variation)",
    bound="reported",
)
def weight_average(setting: Setting) -> Errors:
    """Total variation, at the mean state, between averaged weights and the dial."""
    mean = get_risk("mean")
    missed: dict[float, list[Tensor]] = {w: [] for w in (0.25, 0.5, 0.75, 1.5)}
    for mdp in trees(setting):
        first, second = solve.two_step(mdp, mean, mean, BETA, 1.0)
        one = _fitted(first)
        two = _fitted(second, one)
        for w, found in missed.items():
            merged = _network([a.lerp(b, w) for a, b in zip(one, two, strict=True)])
            [dialled] = tree.mix((_network(one),), (_network(two),), w)
            found.append(((merged.exp() - dialled.exp()).abs().sum(-1) / 2).flatten())
    return {f"w = {w:g}": float(torch.cat(found).mean()) for w, found in missed.items()}


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
