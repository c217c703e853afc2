"""Methods compared over seeds: from the scored answers of every cell to one set of results.

A *cell* is one method trained with one seed; its *points* are the models that it offers: the
`final` one, averages of weights (`merge-0.5`), the dial (`dial-0.5`). The points `start` and
`step1` belong to no method.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import t as student

from riskalign.errors import InputError
from riskalign.evaluation.bootstrap import paired_differences, summarize
from riskalign.evaluation.metrics import Interval, ScoredAnswer

Columns = Mapping[str, Sequence[Any]]

#: Points that a method does not offer as its own.
SHARED = ("start", "step1")
#: A point matches another if its mean reward is lower by no more than this.
REWARD_SLACK = 0.01
_COLUMNS = ("prompt_id", "reward", "cost", "kl", "srr", "length")
_MATCHED = ("reward", "unsafe_rate", "cost", "cvar_0.95", "cvar_0.99")


@dataclass(frozen=True)
class Cell:
    """One method with one seed: its points' scored answers, and what they took to make.

    `budget` holds `updates` (optimizer steps), `examples` (responses or pairs trained on, counted
    again in every epoch), `sampled_tokens`, `seconds` and `peak_megabytes` of the training.
    """

    method: str
    seed: int
    points: Mapping[str, Sequence[ScoredAnswer]]
    budget: Mapping[str, float]


def to_columns(answers: Sequence[ScoredAnswer]) -> dict[str, list[Any]]:
    """Answers without their texts, as lists by field; what was not measured is null."""
    found: dict[str, list[Any]] = {
        name: [getattr(answer, name) for answer in answers] for name in _COLUMNS
    }
    for name in ("kl", "srr"):
        found[name] = [None if math.isnan(v) else round(v, 4) for v in found[name]]
    return found


def from_columns(columns: Columns) -> list[ScoredAnswer]:
    """What `to_columns` took apart; texts are empty."""
    rows = zip(*(columns[name] for name in _COLUMNS), strict=True)
    return [
        ScoredAnswer(
            prompt_id,
            "",
            reward,
            cost,
            math.nan if kl is None else kl,
            math.nan if srr is None else srr,
            length,
        )
        for prompt_id, reward, cost, kl, srr, length in rows
    ]


def seed_interval(values: Sequence[float], confidence: float) -> Interval | None:
    """Student's interval of the mean over seeds; None for a single seed.

    Each value carries the noise of its training and of its own evaluation prompts, so their spread
    holds both. With three seeds it is wide: its factor is 4.3 standard errors at 95 %.
    """
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    factor = float(student.ppf((1 + confidence) / 2, len(values) - 1))
    half = factor * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def compare_cells(
    cells: Sequence[Cell],
    *,
    own: Sequence[str],
    n_boot: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    max_cost: float | None = None,
) -> dict[str, Any]:
    """Every point of every method with intervals, and `own` methods against the others.

    Answers of all seeds are pooled: a metric is that of a model drawn from the method's seeds.
    Intervals are bootstrapped over prompts, a prompt that several seeds asked being one; `seeds`
    beside them is the mean over seeds with Student's interval, and `each` a value for each seed.

    Returns `points` (rows `{"method", "point", "metrics", "seeds", "each", "n_answers"}`, the start
    model first), `budgets` by method (means over seeds) and `matched`, see `matched_differences`.

    Raises `InputError` where methods were run with different seeds.
    """
    methods = list(dict.fromkeys(cell.method for cell in cells))
    seeds = {name: sorted(cell.seed for cell in cells if cell.method == name) for name in methods}
    for name in methods:
        if seeds[name] != seeds[methods[0]]:
            raise InputError(
                f"compare: {name} was run with seeds {seeds[name]} and {methods[0]} with "
                f"{seeds[methods[0]]}; give the same to all"
            )
    options: dict[str, Any] = {
        "n_boot": n_boot,
        "seed": seed,
        "confidence": confidence,
        "max_cost": max_cost,
        "clusters": {
            _own_id(cell, answer): answer.prompt_id
            for cell in cells
            for answers in cell.points.values()
            for answer in answers
        },
        "severities": [
            answer.cost
            for cell in cells
            for point, answers in cell.points.items()
            # The start model and the first step are the same for many methods.
            if point not in SHARED or cell.method == methods[0]
            for answer in answers
            if answer.cost > 0
        ],
    }
    rows = [_row("start", "start", [c for c in cells if c.method == methods[0]], options)]
    for name in methods:
        chosen = [cell for cell in cells if cell.method == name]
        for point in chosen[0].points:
            if point not in SHARED:
                rows.append(_row(name, point, chosen, options))
    return {
        "seeds": seeds[methods[0]],
        "points": rows,
        "budgets": {name: _budget([c for c in cells if c.method == name]) for name in methods},
        "matched": matched_differences(cells, rows, own, options),
    }


def _own_id(cell: Cell, answer: ScoredAnswer) -> str:
    """Tells apart the answers of different seeds' models to one prompt."""
    return f"{cell.seed}/{answer.prompt_id}"


def _pooled(cells: Sequence[Cell], point: str) -> list[ScoredAnswer]:
    return [
        ScoredAnswer(_own_id(cell, a), "", a.reward, a.cost, a.kl, a.srr, a.length)
        for cell in cells
        for a in cell.points[point]
    ]


def _row(method: str, point: str, cells: Sequence[Cell], options: Any) -> dict[str, Any]:
    pooled = _pooled(cells, point)
    alone = options | {"n_boot": 1, "clusters": None}
    each = {
        str(cell.seed): {
            name: interval.value
            for name, interval in summarize(cell.points[point], **alone).items()
        }
        for cell in cells
    }
    metrics = summarize(pooled, **options)
    over_seeds = {
        name: seed_interval([values[name] for values in each.values()], options["confidence"])
        for name in metrics
        if all(name in values for values in each.values())
    }
    return {
        "method": method,
        "point": point,
        "n_answers": len(pooled),
        "metrics": metrics,
        "seeds": {name: interval for name, interval in over_seeds.items() if interval},
        "each": each,
    }


def _budget(cells: Sequence[Cell]) -> dict[str, float]:
    names = dict.fromkeys(name for cell in cells for name in cell.budget)
    return {
        name: statistics.fmean(cell.budget[name] for cell in cells if name in cell.budget)
        for name in names
    }


def matched_differences(
    cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]], own: Sequence[str], options: Any
) -> list[dict[str, Any]]:
    """Own methods less rivals, on the same prompts, at matched helpfulness.

    Each point of a rival is compared with the own method's least helpful point whose mean reward is
    not lower by more than `REWARD_SLACK`: choosing by reward alone leaves the costs' comparison
    fair. Where every own point is less helpful there is no match, which is said (`own_point` None).

    Rows are `{"own", "own_point", "rival", "rival_point", "differences", "cvar_ratio", "apart"}`:
    `differences` are own less rival, paired on prompts and seeds; `apart` tells whether the own
    interval of CVaR 0.95 ends below the rival's. All of it, the match included, is on the prompts
    that both points were asked.
    """
    found: list[dict[str, Any]] = []
    for name in own:
        candidates = [row for row in rows if row["method"] == name]
        for rival in rows:
            if rival["method"] in (name, "start") or rival["method"] in own:
                continue
            match: dict[str, Any] = {
                "own": name,
                "rival": rival["method"],
                "rival_point": rival["point"],
                "own_point": None,
            }
            enough = []
            for row in candidates:
                sides = _common(cells, row, rival)
                mine, theirs = (statistics.fmean(a.reward for a in side) for side in sides)
                if mine >= theirs - REWARD_SLACK:
                    enough.append((mine, row["point"], sides))
            if enough:
                _, match["own_point"], sides = min(enough, key=lambda found: found[0])
                differences = paired_differences(sides[1], sides[0], **options)
                match["differences"] = {key: differences[key] for key in _MATCHED}
                tails = [summarize(side, **options)["cvar_0.95"] for side in sides]
                match["cvar_ratio"] = tails[0].value / tails[1].value if tails[1].value else None
                match["apart"] = tails[0].high < tails[1].low
            found.append(match)
    return found


def _common(
    cells: Sequence[Cell], one: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[list[ScoredAnswer], list[ScoredAnswer]]:
    """Both points' answers to the prompts that both were asked."""
    sides = [
        _pooled([cell for cell in cells if cell.method == row["method"]], row["point"])
        for row in (one, other)
    ]
    shared = {a.prompt_id for a in sides[0]} & {a.prompt_id for a in sides[1]}
    first, second = ([a for a in side if a.prompt_id in shared] for side in sides)
    return first, second
