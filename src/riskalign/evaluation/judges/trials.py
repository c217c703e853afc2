"""What is asked about systems' answers, and what the verdicts make of it.

Two systems are compared in both orders. A win counts 1, a tie 1/2. The orders must agree: a verdict
that changes when the answers change places says more of the judge than of the answers, so it is a
tie, and counted as inconsistent. Or each system's answers are graded by themselves, from 1 to 10.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from riskalign.evaluation.clustered_mean import mean_interval
from riskalign.evaluation.judges.answers import Item
from riskalign.evaluation.judges.prompts import Criterion, Question, question
from riskalign.evaluation.judges.verdicts import Verdict
from riskalign.evaluation.metrics import Floats, Interval

Outcome = Literal[
    "win", "tie", "loss", "inconsistent", "same", "unparsed", "refused", "too_long", "not_asked"
]
#: What an outcome is worth to the first system; outcomes not named here are not judged.
WORTH: dict[Outcome, float] = {"win": 1, "tie": 0.5, "loss": 0, "inconsistent": 0.5, "same": 0.5}
_AGREED: dict[tuple[object, object], Outcome] = {
    ("A", "B"): "win",
    ("B", "A"): "loss",
    ("tie", "tie"): "tie",
}


@dataclass(frozen=True)
class Trial:
    """One answer to a prompt of each of two systems, to be compared, or of one, to be graded.

    `questions` has both orders of a comparison, the first system's answer first in the first; it
    is empty for answers that are the same, of which nobody need be asked. A grade has one.
    `verdicts` are those of the questions, None for one that was not asked.
    """

    prompt_id: str
    systems: tuple[str, ...]
    number: int
    questions: tuple[Question, ...]
    verdicts: tuple[Verdict | None, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """What came of a comparison for its first system."""
        return outcome_of(*self.verdicts) if self.questions else "same"

    def line(self) -> dict[str, Any]:
        """What `verdicts.jsonl` says of it."""
        told = [None if verdict is None else asdict(verdict) for verdict in self.verdicts]
        line: dict[str, Any] = {"prompt_id": self.prompt_id}
        if len(self.systems) == 1:
            return line | {"system": self.systems[0], "number": self.number, "verdict": told[0]}
        a, b = self.systems
        forward, backward = told or (None, None)
        line |= {"a": a, "b": b, "number": self.number, "outcome": self.outcome}
        return line | {"forward": forward, "backward": backward}


@dataclass(frozen=True)
class WinRate:
    """How often `a` beats `b`, ties counting half; None where nothing was judged.

    `n_prompts` are those with a comparison judged, `comparisons` all there are, which is the sum of
    the counts after it. `picked_first` and `picked_second` split `inconsistent`: the judge chose
    whichever answer was shown first, or second; what remains was a tie in one order only.
    """

    a: str
    b: str
    win_rate: Interval | None
    n_prompts: int
    comparisons: int
    wins: int
    ties: int
    losses: int
    inconsistent: int
    same: int
    unparsed: int
    refused: int
    too_long: int
    not_asked: int
    picked_first: int
    picked_second: int


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


def trials(
    items: Sequence[Item], groups: Sequence[tuple[str, ...]], criterion: Criterion
) -> list[Trial]:
    """For each prompt every two systems to compare, or every system to grade, answer by answer."""
    made = []
    for item in items:
        for systems in groups:
            answers = zip(*(item.answers[name] for name in systems), strict=True)
            for number, shown in enumerate(answers):
                if len(systems) == 1:
                    asked = [question("absolute", criterion, item.messages, shown)]
                elif shown[0] == shown[1]:
                    asked = []
                else:
                    orders = shown, shown[::-1]
                    asked = [question("pairwise", criterion, item.messages, own) for own in orders]
                made.append(Trial(item.prompt_id, systems, number, tuple(asked)))
    return made


def judged(made: Sequence[Trial], verdicts: Mapping[Question, Verdict]) -> list[Trial]:
    """The same with their verdicts."""
    return [replace(one, verdicts=tuple(map(verdicts.get, one.questions))) for one in made]


def outcome_of(forward: Verdict | None, backward: Verdict | None) -> Outcome:
    """The outcome for the system that `forward` shows first, None being a question not asked."""
    if forward is None or backward is None:
        return "not_asked"
    for state in ("refused", "too_long", "unparsed"):
        if state in (forward.state, backward.state):
            return state
    return _AGREED.get((forward.value, backward.value), "inconsistent")


def judged_win_rate(a: str, b: str, found: Sequence[Trial], confidence: float = 0.95) -> WinRate:
    """The win rate of `a` against `b`, from the comparisons of these two among `found`."""
    pair = [(one, one.outcome) for one in found if one.systems == (a, b)]
    sums, numbers = _by_prompt(
        (one.prompt_id, WORTH[outcome]) for one, outcome in pair if outcome in WORTH
    )
    outcomes = [outcome for _, outcome in pair]
    values = [
        {verdict and verdict.value for verdict in one.verdicts}
        for one, outcome in pair
        if outcome == "inconsistent"
    ]
    return WinRate(
        a,
        b,
        mean_interval(sums, numbers, confidence) if len(sums) else None,
        len(sums),
        len(pair),
        *map(outcomes.count, get_args(Outcome)),
        *(values.count({place}) for place in ("A", "B")),
    )


def mean_score(system: str, found: Sequence[Trial], confidence: float = 0.95) -> MeanScore:
    """A system's mean score; its interval is that of `mean_interval` on the scale from 0 to 1."""
    grades = [(one.prompt_id, one.verdicts[0]) for one in found if one.systems == (system,)]
    scores = [
        (prompt_id, verdict.value)
        for prompt_id, verdict in grades
        if verdict is not None and isinstance(verdict.value, int)
    ]
    sums, numbers = _by_prompt((prompt_id, (score - 1) / 9) for prompt_id, score in scores)
    interval = None
    if scores:
        shares = mean_interval(sums, numbers, confidence)
        interval = Interval(1 + 9 * shares.value, 1 + 9 * shares.low, 1 + 9 * shares.high)
    flat = [score for _, score in scores]
    states = ["not_asked" if verdict is None else verdict.state for _, verdict in grades]
    return MeanScore(
        system,
        interval,
        len(sums),
        len(grades),
        tuple(map(flat.count, range(1, 11))),
        *map(states.count, ("unparsed", "refused", "too_long", "not_asked")),
    )


def _by_prompt(values: Iterable[tuple[str, float]]) -> tuple[Floats, Floats]:
    """Sum and number of each prompt's values, [M] both."""
    own: dict[str, list[float]] = {}
    for prompt_id, value in values:
        own.setdefault(prompt_id, []).append(value)
    return np.array([sum(each) for each in own.values()]), np.array(
        [float(len(each)) for each in own.values()]
    )


def win_table(names: Sequence[str], found: Sequence[Trial]) -> Floats:
    """Wins of the row's system over the column's, by prompt, [M, S, S]; a tie is half for both.

    M prompts with a comparison judged, S systems in the order of `names`.
    """
    place = {name: i for i, name in enumerate(names)}
    judged = [(one, WORTH[one.outcome]) for one in found if one.outcome in WORTH]
    prompts = {of: i for i, of in enumerate(dict.fromkeys(one.prompt_id for one, _ in judged))}
    wins = np.zeros((len(prompts), len(names), len(names)))
    for one, worth in judged:
        i, (a, b) = prompts[one.prompt_id], (place[name] for name in one.systems)
        wins[i, a, b] += worth
        wins[i, b, a] += 1 - worth
    return wins
