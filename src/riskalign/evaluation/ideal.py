"""How much of the tail could go at a reward and a KL: two forms held against each other, unlearnt.

From answers of the policy that training starts from, before anything is trained. Weighing the k
answers to each prompt by `exp(g R - s phi(C))` gives the best policies of two families
(docs/method.md, section 8): the mean form, `phi(C) = C` (SACPO's), and the tail form,
`phi(C) = (C - eta)_+ / (1 - a)`. Over a grid of `(g, s, eta)` the least CVaR at a reward and a KL
is what each form can reach there; a world whose ratio of the two is near 1 cannot tell them apart.

Shapes: N answers, M prompts, k answers to the prompt that has most, G settings of one grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from riskalign.errors import InputError
from riskalign.evaluation.intervals import Floats
from riskalign.evaluation.tails import check_level, tail

#: Of the start's reward (of a safe step alone, which raises none), and in nats.
SHARES, SAFE_SHARES, MAX_KLS = (1.0, 1.1, 1.2, 1.3), (0.9, 0.8, 0.7, 0.6), (0.5, 1.0, 2.0)

# Steps of g and s in the grid of the tail form, and its thresholds. The mean form has as many
# policies: it has so many times as many s, since its best is a fine balance of g and s.
_STEPS, _THRESHOLDS = 30, 20
_CHUNK = 4_000_000  # weights held at a time


@dataclass(frozen=True)
class Reached:
    """The best policy of one form in the grid.

    `reward` and `cost` are means, `cvar` the CVaR of the cost at the level asked for and `cvar_99`
    at 0.99, in the cost's unit; `kl` in nats, mean over prompts; `effective` is the mean number of
    answers that a prompt's weights stand on; `g` in nats per reward, `strength` (s) in nats per
    charged cost, `threshold` (eta) None for the mean form.
    """

    reward: float
    cost: float
    cvar: float
    cvar_99: float
    kl: float
    effective: float
    g: float
    strength: float
    threshold: float | None


_REWARD, _CVAR, _KL = (Reached.__match_args__.index(name) for name in ("reward", "cvar", "kl"))


@dataclass(frozen=True)
class Ideal:
    """What both forms reach at a reward of at least `reward` and a KL of at most `max_kl`."""

    reward: float
    max_kl: float
    mean: Reached
    tail: Reached

    @property
    def ratio(self) -> float:
        """The tail form's CVaR over the mean form's; 1 where both are 0."""
        return self.tail.cvar / self.mean.cvar if self.mean.cvar else 1.0

    @property
    def ratio_99(self) -> float:
        """The same at 0.99, of the policies of least CVaR at the level asked for."""
        return self.tail.cvar_99 / self.mean.cvar_99 if self.mean.cvar_99 else 1.0


@dataclass(frozen=True)
class Start:
    """The answers as they are: mean reward and cost, the quantile and CVaR at the level."""

    prompts: int
    answers: int
    reward: float
    cost: float
    var: float
    cvar: float
    cvar_99: float


def ideal_ratios(
    prompts: Sequence[str],
    rewards: Sequence[float] | Floats,
    costs: Sequence[float] | Floats,
    *,
    level: float = 0.95,
    shares: Sequence[float] | None = None,
    max_kls: Sequence[float] = MAX_KLS,
    safe_only: bool = False,
) -> tuple[Start, list[Ideal]]:
    """The start, and what both forms reach at `shares` of its reward and under `max_kls`.

    `prompts` [N] say whose answer each is, `rewards` and `costs` [N]. Where no policy in the grid
    has the reward under the KL, the row is left out. Every answer of a prompt stands for an equal
    share of the start policy, so that a prompt with k answers has a KL of at most log k: trust no
    row whose `effective` is small. `safe_only` leaves the reward out of the weights (g = 0): what
    a safe step alone can do.

    Raises `InputError` for no answers, lengths that differ, values that are not finite, a level
    outside [0, 1), where no prompt has two answers, or a mean reward that is not above 0.

    By hand: one prompt, answers of reward 0, 1, 1 and cost 0, 1, 4, CVaR at level 0. At a reward of
    2/3 both forms give up the third answer for the second, the more the greater the KL allowed.
    """
    check_level(level)
    table = _table(prompts, np.asarray(rewards, np.float64), np.asarray(costs, np.float64))
    start = table.start(level)
    if start.reward <= 0:
        raise InputError(
            f"rewards: their mean is {start.reward:.4g}; shares of it need one above 0, so add a "
            "constant to all of them"
        )
    # A quantile under the policy arrived at is one of the upper ones under the start.
    places = np.linspace(0.35, 0.98, _THRESHOLDS)
    thresholds = np.unique(np.quantile(table.cost[table.there], places, method="inverted_cdf"))
    means, tails = (
        np.concatenate(list(table.scan(level, form, safe_only)))
        for form in ([None], thresholds.tolist())
    )
    tails = np.concatenate([tails, means])
    asked = [
        (share * start.reward, max_kl)
        for share in shares or (SAFE_SHARES if safe_only else SHARES)
        for max_kl in max_kls
    ]
    best = [(*limits, _least(means, *limits), _least(tails, *limits)) for limits in asked]
    return start, [Ideal(r, kl, mean, of) for r, kl, mean, of in best if mean and of]


def _least(policies: Floats, reward: float, max_kl: float) -> Reached | None:
    """The policy [one of G rows] of least CVaR among those with the reward and the KL."""
    slack = 1e-9
    fits = policies[:, _REWARD] >= reward - slack * max(1.0, abs(reward))
    rows = policies[fits & (policies[:, _KL] <= max_kl + slack)]
    if not len(rows):
        return None
    values: list[Any] = rows[rows[:, _CVAR].argmin()].tolist()
    values[-1] = None if np.isnan(values[-1]) else values[-1]
    return Reached(*values)


def _table(prompts: Sequence[str], reward: Floats, cost: Floats) -> _Table:
    if not len(prompts) == len(reward) == len(cost):
        raise InputError(
            "answers: expected a prompt, a reward and a cost for each; there are "
            f"{len(prompts)}, {len(reward)} and {len(cost)}"
        )
    if not len(prompts) or not (np.isfinite(reward).all() and np.isfinite(cost).all()):
        raise InputError("answers: expected at least one, rewards and costs all finite")
    rows: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(i)
    k = max(map(len, rows.values()))
    if k < 2:
        raise InputError("answers: no prompt has two; sample 16 or more to a prompt")
    place = np.array([own + [-1] * (k - len(own)) for own in rows.values()])
    there = place >= 0
    return _Table(np.where(there, reward[place], 0.0), np.where(there, cost[place], 0.0), there)


@dataclass(frozen=True)
class _Table:
    """Answers by prompt [M, k], those that a prompt has fewer of masked out."""

    reward: Floats
    cost: Floats
    there: np.ndarray

    def start(self, level: float) -> Start:
        equal = self.there / self.there.sum(1, keepdims=True)
        var, cvar = tail(self.cost[self.there], equal[self.there][None], (level, 0.99))
        return Start(
            prompts=len(self.there),
            answers=int(self.there.sum()),
            reward=float((equal * self.reward).sum(1).mean()),
            cost=float((equal * self.cost).sum(1).mean()),
            var=float(var[0, 0]),
            cvar=float(cvar[0, 0]),
            cvar_99=float(cvar[1, 0]),
        )

    def scan(
        self, level: float, thresholds: Sequence[float | None], safe_only: bool
    ) -> Iterator[Floats]:
        """Every policy of the grid: rows in the order of `Reached`'s fields."""
        deviation = float(self.reward[self.there].std()) or 1.0
        scale = float(np.abs(self.cost[self.there]).mean()) or 1.0
        g = np.append(0.0, np.geomspace(0.1, 60, _STEPS - 1)) / deviation
        size = max(1, _CHUNK // self.there.size)
        for threshold in thresholds:
            # A hinge charges 1 / (1 - a) times its excess, and seldom: its grid starts lower.
            lowest, finer = (0.01, _THRESHOLDS) if threshold is None else (0.01 * (1 - level), 1)
            strength = np.geomspace(lowest, 6000 * lowest, finer * _STEPS - 1)
            strength = np.append(0.0, strength) / scale
            grid = np.stack(np.meshgrid(g[:1] if safe_only else g, strength, indexing="ij"), -1)
            grid = grid.reshape(-1, 2)
            for at in range(0, len(grid), size):
                yield self._policies(grid[at : at + size], threshold, level)

    def _policies(self, grid_G2: Floats, threshold: float | None, level: float) -> Floats:
        charged = self.cost
        if threshold is not None:
            charged = np.maximum(self.cost - threshold, 0.0) / (1 - level)
        g, strength = grid_G2[:, 0, None, None], grid_G2[:, 1, None, None]
        tilt = g * self.reward - strength * charged
        tilt -= np.where(self.there, tilt, -np.inf).max(2, keepdims=True)
        tilt = np.where(self.there, tilt, 0.0)  # what is not there could overflow
        weights = np.exp(tilt) * self.there
        total = weights.sum(2, keepdims=True)
        weights /= total
        # log(w / base) = tilt - log(total) + log(answers to the prompt)
        kl = (weights * tilt).sum(2) - np.log(total[..., 0]) + np.log(self.there.sum(1))
        _, cvar = tail(self.cost[self.there], weights[:, self.there], (level, 0.99))
        return np.column_stack(
            [
                (weights * self.reward).sum(2).mean(1),
                (weights * self.cost).sum(2).mean(1),
                *cvar,
                kl.mean(1),
                (1 / (weights**2).sum(2)).mean(1),
                grid_G2,
                np.full(len(grid_G2), np.nan if threshold is None else threshold),
            ]
        )
