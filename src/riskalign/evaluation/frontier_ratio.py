"""One method's tail over another's where both are as helpful: a ratio read off their frontiers.

A *family* is a method with its grid: `sacpo` is all of `sacpo@lambda_=0.5`, `sacpo@lambda_=2`; its
points are the models that all of them offer.

Shapes: n answers, M prompts of all seeds, R replicates, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from riskalign.evaluation.comparison import SHARED, Cell
from riskalign.evaluation.intervals import Bootstrap, Floats, Interval
from riskalign.evaluation.tails import tail

#: Rewards at which two frontiers are compared, evenly over what both reach.
_PLACES = 5


@dataclass(frozen=True)
class FrontierRatio:
    """CVaR of `own` over that of `rival` at the mean reward `reward`, which both reach.

    `ratio` has the interval over prompts and seeds, drawn together for both; `own_cvar` and
    `rival_cvar` are its two sides and `own_kl`, `rival_kl` the KL there, in nats (None where it was
    not measured). `undrawn` is the share of draws in which a frontier does not reach the reward.
    """

    own: str
    rival: str
    level: float
    reward: float
    ratio: Interval
    own_cvar: float
    rival_cvar: float
    own_kl: float | None
    rival_kl: float | None
    undrawn: float


def family(method: str) -> str:
    """A method's name without its point of a grid."""
    return method.partition("@")[0]


def ratios_of_all(
    cells: Sequence[Cell], own: Sequence[str], levels: Sequence[float], boot: Bootstrap
) -> list[FrontierRatio]:
    """`frontier_ratios` of each own family over each that is not, at each level."""
    families = list(dict.fromkeys(family(cell.method) for cell in cells))
    mine = {family(method) for method in own}
    return [
        ratio
        for level in levels
        for name in families
        for rival in families
        if name in mine and rival not in mine
        for ratio in frontier_ratios(cells, name, rival, level, boot)
    ]


def frontier_ratios(
    cells: Sequence[Cell], own: str, rival: str, level: float, boot: Bootstrap
) -> list[FrontierRatio]:
    """Ratios at up to five rewards that both families' frontiers reach; none where they do not.

    A frontier joins a family's points that no other point of it beats in both reward and CVaR, on
    the whole sample, by straight lines in (reward, log CVaR). A draw takes seeds with replacement,
    and of each seed's prompts as many as there are, the same for both families, since a seed's
    models answer the same prompts.

    By hand: points (0.2, 1), (0.4, 4) against (0.2, 2), (0.4, 4) have at reward 0.3 the CVaR
    `sqrt(1 * 4) = 2` and `sqrt(2 * 4)`, so the ratio `1 / sqrt 2`.
    """
    prompts = sorted({(c.seed, a.prompt_id) for c in cells for p in c.points.values() for a in p})
    place = {key: i for i, key in enumerate(prompts)}
    once = np.ones((1, len(prompts)))
    sides = [_points(cells, name, place) for name in (own, rival)]
    if not all(sides):
        return []
    frontiers = [_undominated(side, level, once) for side in sides]
    reached = [_measured(frontier, level, once)[0] for frontier in frontiers]
    low, high = max(float(r.min()) for r in reached), min(float(r.max()) for r in reached)
    if low > high:
        return []
    rewards = np.unique(np.linspace(low, high, _PLACES))
    draws = _draws([seed for seed, _ in prompts], boot)
    (own_cvar, own_kl), (rival_cvar, rival_kl) = (
        _read_off(frontier, level, once, rewards)[:, 0] for frontier in frontiers
    )
    mine, theirs = (_read_off(frontier, level, draws, rewards)[0] for frontier in frontiers)
    with np.errstate(divide="ignore", invalid="ignore"):
        value, replicates = own_cvar / rival_cvar, mine / theirs
    return [
        FrontierRatio(
            own=own,
            rival=rival,
            level=level,
            reward=float(reward),
            ratio=boot.ends(float(value[i]), replicates[:, i]),
            own_cvar=float(own_cvar[i]),
            rival_cvar=float(rival_cvar[i]),
            own_kl=None if math.isnan(own_kl[i]) else float(own_kl[i]),
            rival_kl=None if math.isnan(rival_kl[i]) else float(rival_kl[i]),
            undrawn=float(np.isnan(replicates[:, i]).mean()),
        )
        for i, reward in enumerate(rewards)
        if np.isfinite(replicates[:, i]).any()
    ]


def _draws(seeds: Sequence[int], boot: Bootstrap) -> Floats:
    """How often each prompt [M] of a seed is drawn [R, M]: seeds first, then their prompts."""
    generator = np.random.default_rng(boot.seed)
    of = np.array(seeds)
    known = np.unique(of)
    taken = generator.multinomial(len(known), np.full(len(known), 1 / len(known)), boot.n_boot)
    drawn = np.zeros((boot.n_boot, len(of)))
    for i, seed in enumerate(known):
        own = np.flatnonzero(of == seed)
        # A seed drawn twice brings twice as many prompts, drawn anew.
        for times in np.unique(taken[:, i]):
            rows = np.flatnonzero(taken[:, i] == times)
            shares = np.full(len(own), 1 / len(own))
            drawn[np.ix_(rows, own)] = generator.multinomial(times * len(own), shares, len(rows))
    return drawn


@dataclass(frozen=True)
class _Point:
    """Answers of all seeds to prompts prompt [n]: their rewards, costs and KL, [n] each."""

    prompt: np.ndarray
    reward: Floats
    cost: Floats
    kl: Floats


def _points(cells: Sequence[Cell], name: str, place: dict[tuple[int, str], int]) -> list[_Point]:
    """The points of a family, of its methods in their order."""
    points = []
    for method in dict.fromkeys(cell.method for cell in cells if family(cell.method) == name):
        own = [cell for cell in cells if cell.method == method]
        for point in (point for point in own[0].points if point not in SHARED):
            answers = [(cell.seed, answer) for cell in own for answer in cell.points[point]]
            prompt = np.array([place[seed, answer.prompt_id] for seed, answer in answers])
            numbers = np.array([(a.reward, a.cost, a.kl) for _, a in answers], dtype=np.float64)
            points.append(_Point(prompt, *np.ascontiguousarray(numbers.T)))
    return points


def _undominated(points: Sequence[_Point], level: float, once: Floats) -> list[_Point]:
    """The points that no other beats in both reward and CVaR."""
    reward, cvar, _ = _measured(points, level, once)[:, :, 0]

    def beaten(i: int) -> bool:
        as_good = (reward >= reward[i]) & (cvar <= cvar[i])
        return bool((as_good & ((reward > reward[i]) | (cvar < cvar[i]))).any())

    return [point for i, point in enumerate(points) if not beaten(i)]


def _measured(points: Sequence[_Point], level: float, draws: Floats) -> Floats:
    """Mean reward, CVaR and mean KL of each point: [3, P, R]."""
    found = np.empty((3, len(points), len(draws)))
    for i, point in enumerate(points):
        weights = draws[:, point.prompt]
        known = weights * ~np.isnan(point.kl)
        with np.errstate(divide="ignore", invalid="ignore"):
            found[0, i] = weights @ point.reward / weights.sum(axis=1)
            found[2, i] = known @ np.nan_to_num(point.kl) / known.sum(axis=1)
        found[1, i] = tail(point.cost, weights, [level])[1][0]
    return found


def _read_off(points: Sequence[_Point], level: float, draws: Floats, rewards: Floats) -> Floats:
    """CVaR and KL on the frontier at each reward, [2, R, len(rewards)]; NaN outside of it."""
    found = np.full((2, len(draws), len(rewards)), np.nan)
    for r, (reward, cvar, kl) in enumerate(np.moveaxis(_measured(points, level, draws), 2, 0)):
        order = np.argsort(reward, kind="stable")
        with np.errstate(divide="ignore"):
            logs = np.log(cvar[order])
        for i, y in enumerate((logs, kl[order])):
            found[i, r] = np.interp(rewards, reward[order], y, left=np.nan, right=np.nan)
    found[0] = np.exp(found[0])
    return found
