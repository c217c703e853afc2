"""Which of two systems a judge prefers, each comparison made in both orders.

A win counts 1, a tie 1/2. The orders must agree: a verdict that changes when the answers change
places says more of the judge than of the answers, so it is a tie, and counted as inconsistent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from riskalign.evaluation.intervals import Floats, Interval, mean_interval
from riskalign.evaluation.judges.answers import Item
from riskalign.evaluation.judges.ask import Question
from riskalign.evaluation.judges.prompts import Criterion, question
from riskalign.evaluation.judges.verdicts import Verdict

Outcome = Literal[
    "win", "tie", "loss", "inconsistent", "same", "unparsed", "refused", "too_long", "not_asked"
]
#: What an outcome is worth to the first system; outcomes not named here are not judged.
WORTH: dict[Outcome, float] = {"win": 1, "tie": 0.5, "loss": 0, "inconsistent": 0.5, "same": 0.5}


@dataclass(frozen=True)
class Comparison:
    """Two systems' answers to one prompt, as questions in both orders.

    `forward` shows `a`'s answer first, `backward` `b`'s; both are None for answers that are the
    same, of which nobody need be asked.
    """

    prompt_id: str
    a: str
    b: str
    number: int
    forward: Question | None
    backward: Question | None


@dataclass(frozen=True)
class Compared:
    """A comparison and what came of it; `forward` and `backward` are the judge's verdicts."""

    comparison: Comparison
    outcome: Outcome
    forward: Verdict | None
    backward: Verdict | None


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


def comparisons(
    items: Sequence[Item], pairs: Sequence[tuple[str, str]], criterion: Criterion
) -> list[Comparison]:
    """Every answer of one system against the other's, for each prompt and pair of systems."""
    found = []
    for item in items:
        for a, b in pairs:
            for i, (mine, other) in enumerate(zip(item.answers[a], item.answers[b], strict=True)):
                asked: list[Question | None] = [None, None]
                if mine != other:
                    asked = [
                        question("pairwise", criterion, item.messages, shown)
                        for shown in ((mine, other), (other, mine))
                    ]
                found.append(Comparison(item.prompt_id, a, b, i, asked[0], asked[1]))
    return found


def questions_of(made: Sequence[Comparison]) -> list[Question]:
    """Both orders of each comparison, one after the other."""
    return [q for c in made for q in (c.forward, c.backward) if q is not None]


def compared(made: Sequence[Comparison], verdicts: Mapping[Question, Verdict]) -> list[Compared]:
    """What the verdicts make of each comparison."""
    found = []
    for one in made:
        if one.forward is None or one.backward is None:
            found.append(Compared(one, "same", None, None))
            continue
        forward, backward = verdicts.get(one.forward), verdicts.get(one.backward)
        found.append(Compared(one, outcome_of(forward, backward), forward, backward))
    return found


def outcome_of(forward: Verdict | None, backward: Verdict | None) -> Outcome:
    """The outcome for the system that `forward` shows first, None being a question not asked."""
    if forward is None or backward is None:
        return "not_asked"
    for state in ("refused", "too_long", "unparsed"):
        if state in (forward.state, backward.state):
            return state
    agreed: dict[tuple[object, object], Outcome] = {
        ("A", "B"): "win", ("B", "A"): "loss", ("tie", "tie"): "tie"
    }  # fmt: skip
    return agreed.get((forward.value, backward.value), "inconsistent")


def win_rate(a: str, b: str, found: Sequence[Compared], confidence: float = 0.95) -> WinRate:
    """The win rate of `a` against `b`, from the comparisons of these two among `found`."""
    own = [c for c in found if (c.comparison.a, c.comparison.b) == (a, b)]
    sums: dict[str, float] = {}
    numbers: dict[str, int] = {}
    for one in own:
        if one.outcome in WORTH:
            of = one.comparison.prompt_id
            sums[of] = sums.get(of, 0.0) + WORTH[one.outcome]
            numbers[of] = numbers.get(of, 0) + 1
    interval = None
    if sums:
        interval = mean_interval(
            np.array(list(sums.values())), np.array(list(numbers.values()), float), confidence
        )
    count = {name: sum(one.outcome == name for one in own) for name in get_args(Outcome)}
    picked = [
        sum(
            one.outcome == "inconsistent"
            and one.forward is not None
            and one.backward is not None
            and one.forward.value == one.backward.value == place
            for one in own
        )
        for place in ("A", "B")
    ]
    return WinRate(
        a,
        b,
        interval,
        n_prompts=len(sums),
        comparisons=len(own),
        wins=count["win"],
        ties=count["tie"],
        losses=count["loss"],
        inconsistent=count["inconsistent"],
        same=count["same"],
        unparsed=count["unparsed"],
        refused=count["refused"],
        too_long=count["too_long"],
        not_asked=count["not_asked"],
        picked_first=picked[0],
        picked_second=picked[1],
    )


def win_table(names: Sequence[str], found: Sequence[Compared]) -> Floats:
    """Wins of the row's system over the column's, by prompt, [M, S, S]; a tie is half for both.

    M prompts with a comparison judged, S systems in the order of `names`.
    """
    place = {name: i for i, name in enumerate(names)}
    judged = [one for one in found if one.outcome in WORTH]
    prompts = {of: i for i, of in enumerate(dict.fromkeys(c.comparison.prompt_id for c in judged))}
    wins = np.zeros((len(prompts), len(names), len(names)))
    for one in judged:
        made = one.comparison
        i, a, b = prompts[made.prompt_id], place[made.a], place[made.b]
        wins[i, a, b] += WORTH[one.outcome]
        wins[i, b, a] += 1 - WORTH[one.outcome]
    return wins
