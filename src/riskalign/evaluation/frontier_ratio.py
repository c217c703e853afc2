"""One method's tail over another's where both are as helpful: a ratio read off their frontiers.

A *family* is a method with its grid: `sacpo` is all of `sacpo@lambda_=0.5`, `sacpo@lambda_=2`; its
points are the models that all of them offer.

Shapes: M prompts of all seeds, R replicates, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from riskalign.evaluation.comparison import SHARED, Cell
from riskalign.evaluation.metrics import Floats, Interval, tail
from riskalign.evaluation.resampling import Bootstrap

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
    sides = [_Frontier(cells, name, place, level) for name in (own, rival)]
    if any(not side.points for side in sides):
        return []
    ones = np.ones((1, len(prompts)))
    low = max(float(side.measured(ones)[0].min()) for side in sides)
    high = min(float(side.measured(ones)[0].max()) for side in sides)
    if low > high:
        return []
    rewards = np.unique(np.linspace(low, high, _PLACES))
    draws = _draws([seed for seed, _ in prompts], boot)
    whole = [side.at(ones, rewards) for side in sides]
    drawn = [side.at(draws, rewards)[0] for side in sides]
    with np.errstate(divide="ignore", invalid="ignore"):
        value, replicates = whole[0][0] / whole[1][0], drawn[0] / drawn[1]
    (own_cvar, own_kl), (rival_cvar, rival_kl) = whole
    return [
        FrontierRatio(
            own=own,
            rival=rival,
            level=level,
            reward=float(reward),
            ratio=boot.ends(float(value[0, i]), replicates[:, i]),
            own_cvar=float(own_cvar[0, i]),
            rival_cvar=float(rival_cvar[0, i]),
            own_kl=_known(own_kl[0, i]),
            rival_kl=_known(rival_kl[0, i]),
            undrawn=float(np.isnan(replicates[:, i]).mean()),
        )
        for i, reward in enumerate(rewards)
        if np.isfinite(replicates[:, i]).any()
    ]


def _known(kl: float) -> float | None:
    return None if math.isnan(kl) else float(kl)


def ratios_of_all(
    cells: Sequence[Cell], own: Sequence[str], levels: Sequence[float], boot: Bootstrap
) -> list[FrontierRatio]:
    """`frontier_ratios` of each own family over each that is not, at each level."""
    families = list(dict.fromkeys(family(cell.method) for cell in cells))
    mine = [name for name in families if name in {family(method) for method in own}]
    return [
        ratio
        for level in levels
        for name in mine
        for rival in families
        if rival not in mine
        for ratio in frontier_ratios(cells, name, rival, level, boot)
    ]


def _draws(seeds: Sequence[int], boot: Bootstrap) -> Floats:
    """How often each prompt [M] of a seed is drawn [R, M]: seeds first, then their prompts."""
    generator = np.random.default_rng(boot.seed)
    of = np.array(seeds)
    known = np.unique(of)
    taken = generator.multinomial(len(known), np.full(len(known), 1 / len(known)), boot.n_boot)
    found = np.zeros((boot.n_boot, len(of)))
    for i, seed in enumerate(known):
        own = np.flatnonzero(of == seed)
        # A seed drawn twice brings twice as many prompts, drawn anew.
        for times in np.unique(taken[:, i]):
            rows = np.flatnonzero(taken[:, i] == times)
            counts = generator.multinomial(
                times * len(own), np.full(len(own), 1 / len(own)), len(rows)
            )
            found[np.ix_(rows, own)] = counts
    return found


class _Frontier:
    """A family's undominated points, each as answers' prompts [n], rewards, costs and KL."""

    def __init__(
        self, cells: Sequence[Cell], name: str, place: dict[tuple[int, str], int], level: float
    ) -> None:
        self.level = level
        self.points: list[tuple[Floats, Floats, Floats, Floats]] = []
        methods = dict.fromkeys(cell.method for cell in cells if family(cell.method) == name)
        for method in methods:
            own = [cell for cell in cells if cell.method == method]
            for point in own[0].points:
                if point in SHARED:
                    continue
                answers = [(cell.seed, a) for cell in own for a in cell.points[point]]
                self.points.append(
                    (
                        np.array([place[seed, a.prompt_id] for seed, a in answers]),
                        np.array([a.reward for _, a in answers], dtype=np.float64),
                        np.array([a.cost for _, a in answers], dtype=np.float64),
                        np.array([a.kl for _, a in answers], dtype=np.float64),
                    )
                )
        if self.points:
            reward, cvar, _ = (row[:, 0] for row in self.measured(np.ones((1, len(place)))))
            self.points = [
                point
                for i, point in enumerate(self.points)
                if not any(
                    reward[j] >= reward[i]
                    and cvar[j] <= cvar[i]
                    and (reward[j] > reward[i] or cvar[j] < cvar[i])
                    for j in range(len(reward))
                )
            ]

    def measured(self, draws: Floats) -> tuple[Floats, Floats, Floats]:
        """Mean reward, CVaR and mean KL of each point [P, R]."""
        reward, cvar, kl = [], [], []
        for of, rewards, costs, kls in self.points:
            weights = draws[:, of]
            with np.errstate(divide="ignore", invalid="ignore"):
                reward.append(weights @ rewards / weights.sum(axis=1))
                known = weights * ~np.isnan(kls)
                kl.append(known @ np.nan_to_num(kls) / known.sum(axis=1))
            cvar.append(tail(costs, weights, [self.level])[1][0])
        return np.array(reward), np.array(cvar), np.array(kl)

    def at(self, draws: Floats, rewards: Floats) -> tuple[Floats, Floats]:
        """CVaR and KL on the frontier at each reward [R, len(rewards)]; NaN outside of it."""
        reward, cvar, kl = self.measured(draws)
        found = np.full((2, len(draws), len(rewards)), np.nan)
        for r in range(len(draws)):
            order = np.argsort(reward[:, r], kind="stable")
            x = reward[order, r]
            with np.errstate(divide="ignore"):
                y = np.log(cvar[order, r])
            found[0, r] = np.exp(np.interp(rewards, x, y, left=np.nan, right=np.nan))
            found[1, r] = np.interp(rewards, x, kl[order, r], left=np.nan, right=np.nan)
        return found[0], found[1]
