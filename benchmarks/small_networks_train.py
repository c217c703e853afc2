"""One method's safe step on sampled answers, for many runs at once; see small_networks.py.

Shape legend: R runs, L responses of a tree, A sampled answers, G rows of k answers, P pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.small_networks_model import Networks, Trees, exact, policy
from riskalign.losses import SequenceStats, pair_loss
from riskalign.risk import get_risk
from riskalign.theory import Levels, accumulate
from riskalign.theory.evaluate import by_sorting

# How the multiplier shrinks with the level, so that one grid pulls about as far for every measure:
# an excess counts 1 / (1 - a) times, on less and less of the mass.
_POWER = 0.7


class Method(NamedTuple):
    """What is trained on: the library's settings, by its names where it has them.

    `levels` are those of the CVaR that each round charges answers by; level 0 is the mean, the
    cost as it is: SACPO. `rows` of `k` answers; `anchors` is the most that rows of one score may
    make up; `max_gap` in nats. `arrival`: the threshold is solved for the policy at the end of all
    rounds, otherwise it is the quantile of the sampled answers. `keep`: rows are the `k` of
    `2 k` answers that hold the tail, "weighed" back or not ("all": `k` sampled, `k` kept).
    `ties`: the better of two answers of one score is the more helpful one, or any ("random").
    `loss`, `alpha` and `risk` are the token-level part, the latter two unused by dpo.
    """

    levels: tuple[float, ...] = (0.95, 0.95)
    rows: str = "groups"
    k: int = 8
    anchors: float = 1.0
    max_gap: float | None = 5.0
    arrival: bool = True
    keep: str = "all"
    ties: str = "reward"
    loss: str = "dpo"
    alpha: float = 0.5
    risk: str = "cvar:0.95"


class Budget(NamedTuple):
    """The same for every method: answers over all rounds, updates over all, sequences in one."""

    answers: int = 4096
    updates: int = 200
    sequences: int = 64
    learning_rate: float = 5e-3


def pull(level: float) -> float:
    """The multiplier of a CVaR's charge, as a part of that of the cost as it is."""
    return float((1.0 - level) ** _POWER)


def threshold(costs: Tensor, weights: Tensor, level: float, strength: Tensor) -> Tensor:
    """The `eta` [R] of least `strength CVaR + KL` over tilts of the sample by its hinge.

    For a fixed `eta` the least is `s eta - log E[exp(-s (C - eta)_+ / (1 - a))]`
    (docs/method.md, section 8), between neighbouring costs concave in `eta`: so all costs are
    tried, at once. `costs` and `weights` are [R, L], `strength` [R]. What
    `riskalign.risk.tail_optimum` solves for every measure one sample at a time; a test holds the
    two against each other.
    """
    ordered, order = costs.double().sort(-1)
    log_p = (weights.double() / weights.sum(-1, keepdim=True)).gather(-1, order).log()
    slope = (strength.double() / (1 - level)).unsqueeze(-1)
    below = log_p.logcumsumexp(-1)
    above = (log_p - slope * ordered).flip(-1).logcumsumexp(-1).flip(-1)
    above = torch.cat([above[:, 1:], above.new_full((len(above), 1), -torch.inf)], -1)
    value = strength.unsqueeze(-1) * ordered - torch.logaddexp(below, above + slope * ordered)
    return ordered.gather(-1, value.argmin(-1, keepdim=True)).squeeze(-1)


def quantile(costs: Tensor, weights: Tensor, level: float) -> Tensor:
    """The smallest cost [R] with at least `level` of the weight at or below it."""
    ordered, order = costs.sort(-1)
    mass = (weights / weights.sum(-1, keepdim=True)).gather(-1, order).cumsum(-1)
    at = (mass < level - 1e-12).sum(-1, keepdim=True).clamp(max=costs.shape[-1] - 1)
    return ordered.gather(-1, at).squeeze(-1)


class Rows(NamedTuple):
    """G rows of every run: responses [R, G, k], scores in nats and answers' weights alike.

    `share` [R, G] is the probability that an update takes the row.
    """

    answers: Tensor
    scores: Tensor
    weights: Tensor
    share: Tensor


def make_rows(answers: Tensor, scores: Tensor, reward: Tensor, method: Method) -> Rows:
    """Rows from sampled answers [R, A] with scores [R, A]; `reward` [R, A] decides between equals.

    Pairs are the best and the worst of k. Answers of a run are in random order.
    """
    k = method.k if method.keep == "all" else 2 * method.k
    runs, usable = len(answers), answers.shape[1] // k * k

    def by_row(values: Tensor) -> Tensor:
        return values[:, :usable].view(runs, -1, k)

    own, score, pleases = by_row(answers), by_row(scores), by_row(reward)
    if method.ties == "random":
        pleases = torch.zeros_like(pleases)  # sampled answers come in random order
    weights = torch.ones_like(score)
    # By score, then by reward: rising.
    order = pleases.argsort(dim=-1, stable=True)
    order = order.gather(-1, score.gather(-1, order).argsort(dim=-1, stable=True))
    if method.rows == "pairs":
        kept = order[..., [-1, 0]]
    elif method.keep == "all":
        kept = order
    else:
        half = method.k // 2
        kept = order[..., : 2 * half]  # the tail's half, and as many of the others, at random
        others = torch.rand_like(score[..., half:]).argsort(-1)[..., :half] + half
        kept = torch.cat([order[..., :half], order.gather(-1, others)], -1)
        if method.keep == "weighed":
            weights = weights[..., : 2 * half].clone()
            weights[..., half:] = (k - half) / half
    own, score = own.gather(-1, kept), score.gather(-1, kept)
    weights = weights[..., : kept.shape[-1]]
    if method.max_gap is not None:
        score = torch.maximum(score, score.amax(-1, keepdim=True) - method.max_gap)
    alike = score.amax(-1) == score.amin(-1)
    n_alike = alike.sum(-1, keepdim=True)
    n_tail = alike.shape[-1] - n_alike
    most = n_tail * method.anchors / (1 - method.anchors) if method.anchors < 1 else n_alike
    weight = torch.minimum(n_alike.double(), most.double()) / n_alike.clamp(min=1)
    share = torch.where(alike, weight, torch.ones_like(weight))
    # A run without any tail has only anchors, and stays where it is.
    return Rows(own, score, weights, torch.where(n_tail > 0, share, torch.ones_like(share)))


def leaf_stats(levels: Levels, before: Levels, method: Method) -> SequenceStats:
    """Every response's statistics [R, L], the risk as the library's oracle has it.

    The worst-case density is the gradient of the risk with respect to the losses
    (riskalign.tokens.stats).
    """
    logp, logp_ref = accumulate(levels), accumulate(before)
    risk = torch.zeros_like(logp_ref)
    if method.loss != "dpo":
        measure = by_sorting(get_risk(method.risk))
        tokens = []
        for own, ref in zip(levels, before, strict=True):
            density = measure((ref - own).detach(), ref).density
            value = (density * (ref - own)).sum(-1, keepdim=True)
            tokens.append(value.expand_as(own))
        risk = accumulate(tuple(tokens))
    nothing = torch.zeros_like(logp_ref)
    return SequenceStats(logp, logp_ref, nothing, risk, nothing, nothing)


def rows_loss(stats: SequenceStats, rows: Rows, taken: Tensor, method: Method) -> Tensor:
    """Loss of each run [R] on the rows `taken` [R, B]: the mean over rows of that of their pairs.

    As the trainer has it: all pairs of a row, the better answer chosen, by `pair_loss` in nats.
    """
    k = rows.answers.shape[-1]
    index = taken.unsqueeze(-1).expand(*taken.shape, k)
    own, score, weight = (x.gather(1, index) for x in rows[:3])
    better, worse = torch.triu_indices(k, k, 1)
    swap = score[..., better] < score[..., worse]

    def side(values: Tensor, chosen: bool) -> Tensor:
        a, b = values[..., better], values[..., worse]
        return torch.where(swap == chosen, b, a)

    def pick(chosen: bool) -> SequenceStats:
        at = side(own, chosen).flatten(1)
        logp, logp_ref, risk = (
            values.gather(1, at) for values in (stats.logp_policy, stats.logp_ref, stats.risk)
        )
        nothing = torch.zeros_like(logp_ref)  # of the rest only metrics are made
        return SequenceStats(logp, logp_ref, nothing, risk, nothing, nothing)

    gap = (side(score, True) - side(score, False)).flatten(1)
    loss = pair_loss(
        method.loss,
        pick(True),
        pick(False),
        beta=1.0,
        alpha=method.alpha,
        target="gap",
        gap=gap,
    ).loss
    heavy = (weight[..., better] * weight[..., worse]).flatten(1)
    return (heavy * loss).sum(-1) / heavy.sum(-1)


def fit(
    net: Networks,
    before: Levels,
    rows: Rows,
    method: Method,
    updates: int,
    budget: Budget,
    generator: torch.Generator,
) -> None:
    """Adam on the rows, the rate falling linearly to 0; rows drawn with replacement by `share`."""
    optimiser = torch.optim.Adam(list(net), lr=budget.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 1e-3, updates)
    size = budget.sequences // rows.answers.shape[-1]
    taken = torch.multinomial(rows.share, updates * size, replacement=True, generator=generator)
    before = tuple(level.float() for level in before)
    rows = Rows(rows.answers, *(values.float() for values in rows[1:]))
    for u in range(updates):
        stats = leaf_stats(policy(net, len(before)), before, method)
        loss = rows_loss(stats, rows, taken[:, u * size : (u + 1) * size], method)
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
        schedule.step()


def charges(trees: Trees, counts: Tensor, level: float, strength: Tensor, arrival: bool) -> Tensor:
    """What each response of a tree is charged [R, L], from how often it was sampled [R, L]."""
    if level == 0.0:
        return trees.cost
    if arrival:
        eta = threshold(trees.cost, counts, level, strength)
    else:
        eta = quantile(trees.cost, counts, level)
    return (trees.cost - eta.unsqueeze(-1)).clamp(min=0) / (1 - level)


def train(
    net: Networks,
    trees: Trees,
    method: Method,
    budget: Budget,
    strength: Tensor,
    generator: torch.Generator,
    depth: int,
    value: Tensor | None = None,
) -> Tensor:
    """The safe step in as many rounds as there are `levels`; log probabilities of all [R, L].

    `strength` [R] is lambda / beta of the cost as it is. Each round samples afresh and tilts by
    its part of it. With `value` [R, L] that is what scores, times `strength`, and not the cost: the
    helpful step. `net` is changed in place.
    """
    rounds = len(method.levels)
    for number, level in enumerate(method.levels):
        before = exact(net, depth)
        leaves = accumulate(before)
        drawn = torch.multinomial(
            leaves.exp(), budget.answers // rounds, replacement=True, generator=generator
        )
        ones = leaves.new_ones(drawn.shape)
        counts = torch.zeros_like(leaves).scatter_add_(1, drawn, ones)
        if value is None:
            own = strength * pull(level) / rounds
            left = own * (rounds - number)
            scores = -own.unsqueeze(-1) * charges(trees, counts, level, left, method.arrival)
        else:
            scores = strength.unsqueeze(-1) * value / rounds
        rows = make_rows(drawn, scores.gather(1, drawn), trees.reward.gather(1, drawn), method)
        fit(net, before, rows, method, budget.updates // rounds, budget, generator)
    return accumulate(exact(net, depth))
