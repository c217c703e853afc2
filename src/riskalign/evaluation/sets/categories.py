"""Scored answers by category: what is usual, what the tail holds, and who wins against a baseline.

A cost model's costs have a sign, above 0 for unsafe (Safe RLHF, arXiv 2310.12773). Wins by cost
compare costs as they are. Metrics of harm (`cost`, CVaR, worst of k, severity) count what is
charged, max(cost, 0): a very harmless answer does not make up for a harmful one.

Shapes: n answers, M prompts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from riskalign.errors import InputError
from riskalign.evaluation import ScoredAnswer, summarize
from riskalign.evaluation.intervals import Bootstrap, Floats, Interval
from riskalign.evaluation.sets.rates import clustered_rate
from riskalign.files.atomic import read_json_lines, write_json_lines

#: Metrics of a category, in the order of a table.
CATEGORY_METRICS = (
    "reward",
    "unsafe_rate",
    "cost",
    "cvar_0.95",
    "worst_of_k",
    "severity_weighted_cost",
    "reward_win_rate",
    "cost_win_rate",
)


@dataclass(frozen=True)
class SetAnswer:
    """One answer of a model to a prompt of a set; what was not measured is None.

    `length` counts response tokens; `kl` and `srr` are in nats against the baseline, as in
    `ScoredAnswer`.
    """

    prompt_id: str
    category: str | None
    answer: str
    reward: float | None = None
    cost: float | None = None
    length: int = 0
    kl: float | None = None
    srr: float | None = None


@dataclass(frozen=True)
class CategoryRow:
    """A category's metrics (keys of `CATEGORY_METRICS`, those that could be measured)."""

    category: str
    n_prompts: int
    n_answers: int
    metrics: dict[str, Interval]


def category_rows(
    answers: Sequence[SetAnswer],
    baseline: Sequence[SetAnswer] | None = None,
    *,
    bootstrap: Bootstrap | None = None,
    severities: Sequence[float] | None = None,
) -> list[CategoryRow]:
    """A row for each category, in the order in which they come; answers without one have none."""
    categories = dict.fromkeys(a.category for a in answers if a.category is not None)
    rows = []
    for category in categories:
        own, other = (
            [a for a in side if a.category == category] for side in (answers, baseline or ())
        )
        metrics = answer_metrics(own, other or None, bootstrap=bootstrap, severities=severities)
        rows.append(CategoryRow(category, len({a.prompt_id for a in own}), len(own), metrics))
    return rows


def answer_metrics(
    answers: Sequence[SetAnswer],
    baseline: Sequence[SetAnswer] | None = None,
    *,
    bootstrap: Bootstrap | None = None,
    severities: Sequence[float] | None = None,
) -> dict[str, Interval]:
    """`CATEGORY_METRICS` of some answers, and `kl`, `srr` and `length`, all that were measured.

    `reward`, `unsafe_rate`, `cost`, `cvar_0.95`, `worst_of_k`, `kl` and `srr` are those of
    `riskalign.evaluation.summarize` with max(cost, 0) for a cost. `severity_weighted_cost` is
    `severity_weighted_cost`; win rates are `win_rate` by reward, and by cost, less winning.
    A single prompt has no interval, and so no metric.

    Args:
        answers: of one model.
        baseline: the baseline's answers, to the same prompts; without it there are no win rates.
        bootstrap: of the intervals, which are clustered on prompts.
        severities: costs of unsafe answers of every model compared (as in `summarize`).
    """
    bootstrap = bootstrap or Bootstrap()
    if len({a.prompt_id for a in answers}) < 2:
        return {}
    with_reward, with_cost = (
        all(getattr(a, name) is not None for a in answers) for name in ("reward", "cost")
    )
    scored = [
        ScoredAnswer(
            a.prompt_id,
            "",
            _or(a.reward, 0.0),
            charged(a),
            _or(a.kl, math.nan),
            _or(a.srr, math.nan),
            a.length,
        )
        for a in answers
    ]
    found = summarize(
        scored,
        n_boot=bootstrap.n_boot,
        seed=bootstrap.seed,
        confidence=bootstrap.confidence,
        severities=severities,
    )
    wanted = ["length", "kl", "srr"] + ["reward"] * with_reward
    wanted += ["unsafe_rate", "cost", "cvar_0.95", "worst_of_k"] * with_cost
    metrics = {name: found[name] for name in wanted if name in found}
    if with_cost:
        metrics["severity_weighted_cost"] = severity_weighted_cost(scored, bootstrap)
    if baseline is not None:
        for name, measured, sign in (("reward", with_reward, 1), ("cost", with_cost, -1)):
            if measured and all(getattr(b, name) is not None for b in baseline):
                own, other = (_by_prompt(side, name, sign) for side in (answers, baseline))
                metrics[f"{name}_win_rate"] = win_rate(own, other, bootstrap)
    return metrics


def severity_weighted_cost(scored: Sequence[ScoredAnswer], bootstrap: Bootstrap) -> Interval:
    """The root of the mean square of the costs, in the costs' unit.

    Each answer's cost is weighted by itself, so that one answer of cost 10 counts as much as a
    hundred of cost 1, where the mean takes it for ten. It is the mean cost times the root of 1 +
    (standard deviation / mean)²; both agree where all answers cost the same.
    """
    costs: dict[str, list[float]] = defaultdict(list)
    for answer in scored:
        costs[answer.prompt_id].append(answer.cost)
    squares = np.array([sum(c * c for c in own) for own in costs.values()])
    sizes = np.array([float(len(own)) for own in costs.values()])

    def statistic(draws: Floats) -> Floats:
        return np.asarray(np.sqrt((draws @ squares) / (draws @ sizes)))

    return bootstrap.interval(statistic, len(sizes))


def win_rate(
    own: Mapping[str, Sequence[float]],
    other: Mapping[str, Sequence[float]],
    bootstrap: Bootstrap,
) -> Interval:
    """The probability that an answer of ours scores above one of theirs to the same prompt.

    Ties count half; with several answers to a prompt all pairs are compared, and prompts count
    alike. The interval is clustered on prompts (`clustered_rate`).

    Args:
        own: scores of our answers by prompt, higher better.
        other: scores of theirs.
        bootstrap: of the interval.

    Raises:
        InputError: the two were not asked the same prompts, or none.
    """
    if not own or own.keys() != other.keys():
        raise InputError(
            f"a win rate needs answers to the same prompts on both sides; {len(own)} and "
            f"{len(other)} prompts were answered, {len(own.keys() ^ other.keys())} by one side only"
        )
    if own == other:
        return Interval(0.5, 0.5, 0.5)  # a model against itself, whatever the prompts
    wins = []
    for prompt_id, scores in own.items():
        gap = np.subtract.outer(np.asarray(scores), np.asarray(other[prompt_id]))
        wins.append(float((gap > 0).mean() + (gap == 0).mean() / 2))
    rate = clustered_rate(wins, np.ones(len(wins)), bootstrap)
    assert rate is not None
    return rate


def charged(answer: SetAnswer) -> float:
    """max(cost, 0), and 0 where no cost was measured."""
    return max(0.0, _or(answer.cost, 0.0))


def write_answers(path: Path, answers: Sequence[SetAnswer], prompts: Mapping[str, Any]) -> None:
    """Write answers as JSON lines with their prompts' messages, whole or not at all."""
    write_json_lines(path, ({"prompt": prompts[a.prompt_id], **vars(a)} for a in answers))


def read_answers(path: Path) -> list[SetAnswer]:
    """Read what `write_answers` wrote, but for the prompts."""
    rows = read_json_lines(path)
    return [SetAnswer(**{k: v for k, v in row.items() if k != "prompt"}) for row in rows]


def _by_prompt(answers: Sequence[SetAnswer], field: str, sign: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        found[answer.prompt_id].append(sign * getattr(answer, field))
    return found


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
