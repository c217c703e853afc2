"""What is asked about systems' answers, and the win rates, ratings and scores from the verdicts.

Two systems are compared in both orders. A win counts 1, a tie 1/2. The orders must agree: a verdict
that changes when the answers change places says more of the judge than of the answers, so it is a
tie, and counted as inconsistent. Or each system's answers are graded by themselves, from 1 to 10.

Ratings of systems from pairwise wins: Bradley-Terry by maximum likelihood, on the Elo scale.

`P(i beats j) = 1 / (1 + exp(θ_j - θ_i))` (Bradley & Terry, 1952), a tie being half a win for both.
A rating is `1000 + 400 / ln 10 (θ_i - θ_anchor)`, so that 400 points are odds of ten to one.

The maximum lies at infinity unless every system can be reached from every other by a chain of wins
(Ford, 1957): a system that has only won has no finite rating. Only then half a win for each side of
every pair compared is added, which is the least result that a comparison can have. Ratings across
such a gap are marked, and have no interval. Neither have those that such a gap cuts off in too many
of the bootstrap's replicates: where one system almost always wins, its interval's end would be the
prior's.

Shapes: S systems, M prompts, R sets of results (bootstrap replicates).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from riskalign.errors import InputError
from riskalign.evaluation import Bootstrap, Floats, Interval, few_differ, mean_interval
from riskalign.evaluation.judges.answers import Item
from riskalign.evaluation.judges.prompts import Criterion, Question, Verdict, question

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
    of: dict[str, list[float]] = {}
    for prompt_id, value in values:
        of.setdefault(prompt_id, []).append(value)
    each = of.values()
    return np.array(list(map(sum, each))), np.array(list(map(len, each)), dtype=np.float64)


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


ANCHOR_RATING = 1000.0
_SCALE = 400 / math.log(10)
_PRIOR = 0.5


@dataclass(frozen=True)
class Rating:
    """A system's rating; None where nothing connects it with the anchor.

    `finite` is False where only the prior keeps the rating finite. `low` and `high` are None then,
    for the anchor, which is 1000 by definition, and where too few prompts differ for a bootstrap:
    in all results (`few_differ`), or in those of this system, which more than (1 - confidence) / 2
    of the replicates then leave without a chain of wins to the anchor or from it. The win rates'
    intervals hold there.
    """

    name: str
    elo: float | None
    low: float | None
    high: float | None
    finite: bool


def strengths(wins: Floats) -> Floats:
    """Bradley-Terry's θ of the maximum likelihood, mean 0, [R, S], for tables of wins [R, S, S].

    Each table must be connected by chains of wins both ways. Newton's method with the step
    `log(1 + d) / d`, d the largest change of a difference: the logistic loss is self-concordant in
    the generalised sense (Bach, 2010), with which such a step never overshoots.
    """
    R, S, _ = wins.shape
    games = wins + wins.transpose(0, 2, 1)
    theta = np.zeros((R, S))
    for _ in range(200):
        p = 1 / (1 + np.exp(theta[:, None, :] - theta[:, :, None]))  # [R, S, S], row beats column
        gradient = (wins - games * p).sum(axis=2)
        weights = games * p * (1 - p)
        hessian = -weights
        hessian[:, range(S), range(S)] += weights.sum(axis=2)
        # The sum of the strengths is free: a constant added holds it at 0.
        step = np.linalg.solve(hessian + 1.0 / S, gradient[..., None])[..., 0]
        d = step.max(axis=1, keepdims=True) - step.min(axis=1, keepdims=True)
        theta += step * np.where(d > 0, np.log1p(d) / np.where(d > 0, d, 1), 1)
        if d.max(initial=0) < 1e-10:
            break
    centred: Floats = theta - theta.mean(axis=1, keepdims=True)
    return centred


def elo_ratings(
    names: Sequence[str],
    wins: Floats,
    anchor: str,
    bootstrap: Bootstrap | None = None,
) -> list[Rating]:
    """The rating of each system, with percentile intervals of a bootstrap over prompts.

    Args:
        names: the systems, [S].
        wins: wins of the row's system over the column's, by prompt, [M, S, S].
        anchor: the system whose rating is 1000.
        bootstrap: of the intervals.

    Raises:
        InputError: the anchor is not among the names.
    """
    if anchor not in names:
        raise InputError(f"anchor: {anchor!r} is not one of {', '.join(names)}")
    bootstrap = bootstrap or Bootstrap()
    total, place = wins.sum(axis=0), names.index(anchor)
    kept = np.flatnonzero(_reach((total + total.T)[None] > 0)[0][place]).tolist()
    own, table = wins[:, kept][:, :, kept], total[np.ix_(kept, kept)]
    zero = kept.index(place)
    finite = ~_cut_off(table[None], zero)[0]
    values = low = high = _elo(table[None], table, zero)[0]
    bounded = np.zeros(len(kept), dtype=bool)
    if not few_differ([prompt.tobytes() for prompt in own]):
        tables = np.tensordot(np.concatenate(bootstrap.draws(len(own))), own, axes=1)
        tail = (1 - bootstrap.confidence) / 2
        low, high = np.quantile(_elo(tables, table, zero), [tail, 1 - tail], axis=0)
        bounded = finite & (_cut_off(tables, zero).mean(axis=0) <= tail)
        bounded[zero] = False
    ratings = {}
    for k, name in enumerate(names[i] for i in kept):
        start, end = (float(low[k]), float(high[k])) if bounded[k] else (None, None)
        ratings[name] = Rating(name, float(values[k]), start, end, bool(finite[k]))
    return [ratings.get(name, Rating(name, None, None, None, False)) for name in names]


def _cut_off(tables: Floats, anchor: int) -> NDArray[np.bool_]:
    """Which systems no chain of wins joins to the anchor both ways, [R, S]."""
    reach = _reach(tables > 0)
    return ~(reach[:, anchor] & reach[:, :, anchor])


def _elo(tables: Floats, compared: Floats, anchor: int) -> Floats:
    """Ratings [R, S] of tables [R, S, S], with the prior where the maximum is at infinity."""
    apart = ~np.all(_reach(tables > 0), axis=(1, 2), keepdims=True)
    pairs = ((compared + compared.T) > 0).astype(np.float64)
    theta = strengths(tables + _PRIOR * pairs * apart)
    return ANCHOR_RATING + _SCALE * (theta - theta[:, anchor, None])


def _reach(edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a path leads from the row's system to the column's or it is the same, [R, S, S]."""
    S = edges.shape[-1]
    found = (edges | np.eye(S, dtype=bool)).astype(np.float64)
    for _ in range(S.bit_length()):  # paths twice as long each time
        found = np.minimum(found @ found, 1)
    return found > 0
