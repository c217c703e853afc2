"""Methods compared over seeds: from the scored answers of every cell to one set of results.

A *cell* is one method trained with one seed; its *points* are the models that it offers: the
`final` one, averages of weights (`merge-0.5`), the dial (`dial-0.5`). The points `start` and
`step1` belong to no method.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import Unpack

from riskalign.errors import InputError
from riskalign.evaluation.intervals import Bootstrap, Interval, seed_interval
from riskalign.evaluation.metrics import Options, paired_differences, summarize
from riskalign.evaluation.score import ScoredAnswer

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
    columns: dict[str, list[Any]] = {
        name: [getattr(answer, name) for answer in answers] for name in _COLUMNS
    }
    for name in ("kl", "srr"):
        columns[name] = [None if math.isnan(v) else round(v, 4) for v in columns[name]]
    return columns


def from_columns(columns: Mapping[str, Sequence[Any]]) -> list[ScoredAnswer]:
    """What `to_columns` took apart; texts are empty."""
    rows = zip(*(columns[name] for name in _COLUMNS), strict=True)
    measured: list[list[Any]] = [[math.nan if v is None else v for v in row] for row in rows]
    return [ScoredAnswer(prompt_id, "", *numbers) for prompt_id, *numbers in measured]


def compare_cells(
    cells: Sequence[Cell], *, own: Sequence[str], **options: Unpack[Options]
) -> dict[str, Any]:
    """Every point of every method with intervals, and `own` methods against the others.

    Answers of all seeds are pooled: a metric is that of a model drawn from the method's seeds.
    Intervals are bootstrapped over prompts, a prompt that several seeds asked being one; `seeds`
    beside them is the mean over seeds with Student's interval, and `each` a value for each seed.
    `options` are those of `summarize`; `clusters` and `severities` follow from the cells.

    Returns `points` (rows `{"method", "point", "metrics", "seeds", "each", "n_answers"}`, the start
    model first), `budgets` by method (means over seeds) and `matched`, see `matched_differences`.

    Raises `InputError` where methods were run with different seeds.
    """
    methods: dict[str, list[Cell]] = {}
    for cell in cells:
        methods.setdefault(cell.method, []).append(cell)
    seeds = {name: sorted(cell.seed for cell in made) for name, made in methods.items()}
    first = cells[0].method
    for name in methods:
        if seeds[name] != seeds[first]:
            raise InputError(
                f"compare: {name} was run with seeds {seeds[name]} and {first} with "
                f"{seeds[first]}; give the same to all"
            )
    # The start model and the first step are the same for many methods: their costs count once.
    every = [
        answer
        for cell in cells
        for point, answers in cell.points.items()
        if point not in SHARED or cell.method == first
        for answer in answers
    ]
    options["severities"] = [answer.cost for answer in every if answer.cost > 0]
    options["clusters"] = {
        _own_id(cell, answer): answer.prompt_id
        for cell in cells
        for answers in cell.points.values()
        for answer in answers
    }
    rows = [_row("start", "start", methods[first], options)]
    for name, made in methods.items():
        rows += [
            _row(name, point, made, options) for point in made[0].points if point not in SHARED
        ]
    return {
        "seeds": seeds[first],
        "points": rows,
        "budgets": {name: _budget(made) for name, made in methods.items()},
        "matched": matched_differences(cells, rows, own, options),
    }


def _own_id(cell: Cell, answer: ScoredAnswer) -> str:
    """Tells apart the answers of different seeds' models to one prompt."""
    return f"{cell.seed}/{answer.prompt_id}"


def _pooled(cells: Sequence[Cell], point: str) -> list[ScoredAnswer]:
    return [
        replace(answer, prompt_id=_own_id(cell, answer), text="")
        for cell in cells
        for answer in cell.points[point]
    ]


def _row(method: str, point: str, cells: Sequence[Cell], options: Options) -> dict[str, Any]:
    pooled = _pooled(cells, point)
    alone: Options = {**options, "n_boot": 1, "clusters": None}
    each = {str(cell.seed): _values(summarize(cell.points[point], **alone)) for cell in cells}
    metrics = summarize(pooled, **options)
    confidence = options.get("confidence", Bootstrap.confidence)
    over_seeds = {
        name: seed_interval([values[name] for values in each.values()], confidence)
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


def _values(metrics: Mapping[str, Interval]) -> dict[str, float]:
    return {name: interval.value for name, interval in metrics.items()}


def _budget(cells: Sequence[Cell]) -> dict[str, float]:
    names = dict.fromkeys(name for cell in cells for name in cell.budget)
    return {
        name: statistics.fmean(cell.budget[name] for cell in cells if name in cell.budget)
        for name in names
    }


def matched_differences(
    cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]], own: Sequence[str], options: Options
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
    rivals = [row for row in rows if row["method"] not in ("start", *own)]
    return [
        _match(cells, [row for row in rows if row["method"] == name], name, rival, options)
        for name in own
        for rival in rivals
    ]


def _match(
    cells: Sequence[Cell],
    candidates: Sequence[Mapping[str, Any]],
    own: str,
    rival: Mapping[str, Any],
    options: Options,
) -> dict[str, Any]:
    match: dict[str, Any] = {
        "own": own,
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
        _, match["own_point"], sides = min(enough, key=lambda candidate: candidate[0])
        differences = paired_differences(sides[1], sides[0], **options)
        match["differences"] = {key: differences[key] for key in _MATCHED}
        tails = [summarize(side, **options)["cvar_0.95"] for side in sides]
        match["cvar_ratio"] = tails[0].value / tails[1].value if tails[1].value else None
        match["apart"] = tails[0].high < tails[1].low
    return match


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
