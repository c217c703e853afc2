"""How a judge grades each system's answers by themselves, from 1 to 10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from riskalign.evaluation.intervals import Interval, mean_interval
from riskalign.evaluation.judges.answers import Item
from riskalign.evaluation.judges.ask import Question
from riskalign.evaluation.judges.prompts import Criterion, question
from riskalign.evaluation.judges.verdicts import Verdict


@dataclass(frozen=True)
class Grade:
    """One answer of a system, the question about it, and the verdict (None: not asked)."""

    prompt_id: str
    system: str
    number: int
    question: Question
    verdict: Verdict | None = None


@dataclass(frozen=True)
class MeanScore:
    """A system's mean score over its graded answers, from 1 to 10; None where none was graded.

    `histogram` counts the scores 1, 2, ..., 10; `answers` is its sum and the counts after it.
    """

    system: str
    score: Interval | None
    n_prompts: int
    answers: int
    histogram: tuple[int, ...]
    unparsed: int
    refused: int
    too_long: int
    not_asked: int


def grades(items: Sequence[Item], systems: Sequence[str], criterion: Criterion) -> list[Grade]:
    """A question about every answer."""
    return [
        Grade(item.prompt_id, system, i, question("absolute", criterion, item.messages, (answer,)))
        for item in items
        for system in systems
        for i, answer in enumerate(item.answers[system])
    ]


def graded(made: Sequence[Grade], verdicts: Mapping[Question, Verdict]) -> list[Grade]:
    """The same with their verdicts."""
    return [
        Grade(g.prompt_id, g.system, g.number, g.question, verdicts.get(g.question)) for g in made
    ]


def mean_score(system: str, found: Sequence[Grade], confidence: float = 0.95) -> MeanScore:
    """A system's mean score; its interval is that of `mean_interval` on the scale from 0 to 1."""
    own = [grade for grade in found if grade.system == system]
    scores: dict[str, list[int]] = {}
    for grade in own:
        if grade.verdict is not None and isinstance(grade.verdict.value, int):
            scores.setdefault(grade.prompt_id, []).append(grade.verdict.value)
    interval = None
    if scores:
        shares = mean_interval(
            np.array([sum((score - 1) / 9 for score in of) for of in scores.values()]),
            np.array([float(len(of)) for of in scores.values()]),
            confidence,
        )
        interval = Interval(1 + 9 * shares.value, 1 + 9 * shares.low, 1 + 9 * shares.high)
    flat = [score for of in scores.values() for score in of]
    states = [grade.verdict.state if grade.verdict else "not_asked" for grade in own]
    return MeanScore(
        system,
        interval,
        n_prompts=len(scores),
        answers=len(own),
        histogram=tuple(flat.count(score) for score in range(1, 11)),
        unparsed=states.count("unparsed"),
        refused=states.count("refused"),
        too_long=states.count("too_long"),
        not_asked=states.count("not_asked"),
    )
