"""Ratings of systems from pairwise wins: Bradley-Terry by maximum likelihood, on the Elo scale.

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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riskalign.errors import InputError
from riskalign.evaluation.intervals import Floats, few_differ

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


def bradley_terry(wins: Floats) -> Floats:
    """Strengths θ of the maximum likelihood, mean 0, for each of R tables of wins.

    Newton's method with the step `log(1 + d) / d`, d the largest change of a difference: the
    logistic loss is self-concordant in the generalised sense (Bach, 2010), with which such a step
    never overshoots.

    Args:
        wins: [R, S, S], not negative; each table connected by chains of wins both ways.

    Returns:
        [R, S].
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
    *,
    n_boot: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Rating]:
    """The rating of each system, with percentile intervals of a bootstrap over prompts.

    Args:
        names: the systems, [S].
        wins: wins of the row's system over the column's, by prompt, [M, S, S].
        anchor: the system whose rating is 1000.
        n_boot: replicates.
        seed: draws the prompts.
        confidence: of the intervals, in (0, 1).

    Raises:
        InputError: the anchor is not among the names, or a number is out of range.
    """
    if anchor not in names:
        raise InputError(f"anchor: {anchor!r} is not one of {', '.join(names)}")
    if n_boot < 1 or not 0 < confidence < 1:
        raise InputError("n_boot must be at least 1 and confidence in (0, 1)")
    total = wins.sum(axis=0)
    linked = _reach((total + total.T)[None] > 0)[0][names.index(anchor)]
    kept = [i for i in range(len(names)) if linked[i]]
    table = total[np.ix_(kept, kept)]
    zero = kept.index(names.index(anchor))
    forward = _reach(table[None] > 0)[0]
    finite = forward[zero] & forward[:, zero]
    values = _elo(table[None], table, zero)[0]
    ends: list[Floats] | None = None
    firm = finite
    own = wins[:, kept][:, :, kept]
    if not few_differ([prompt.tobytes() for prompt in own]):
        generator = np.random.default_rng(seed)
        M = len(own)
        drawn = generator.multinomial(M, np.full(M, 1 / M), size=n_boot).astype(np.float64)
        tables = np.tensordot(drawn, own, axes=1)
        tail = (1 - confidence) / 2
        ends = list(np.quantile(_elo(tables, table, zero), [tail, 1 - tail], axis=0))
        reach = _reach(tables > 0)
        firm = (~(reach[:, zero] & reach[:, :, zero])).mean(axis=0) <= tail
    ratings = []
    for i, name in enumerate(names):
        if not linked[i]:
            ratings.append(Rating(name, None, None, None, finite=False))
            continue
        k = kept.index(i)
        low = high = None
        if ends is not None and finite[k] and firm[k] and k != zero:
            low, high = (float(end[k]) for end in ends)
        ratings.append(Rating(name, float(values[k]), low, high, bool(finite[k])))
    return ratings


def _elo(tables: Floats, compared: Floats, anchor: int) -> Floats:
    """Ratings [R, S] of tables [R, S, S], with the prior where the maximum is at infinity."""
    apart = ~np.all(_reach(tables > 0), axis=(1, 2), keepdims=True)
    pairs = ((compared + compared.T) > 0).astype(np.float64)
    theta = bradley_terry(tables + _PRIOR * pairs * apart)
    return ANCHOR_RATING + _SCALE * (theta - theta[:, anchor, None])


def _reach(edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a path leads from the row's system to the column's or it is the same, [R, S, S]."""
    S = edges.shape[-1]
    found = (edges | np.eye(S, dtype=bool)).astype(np.float64)
    for _ in range(S.bit_length()):  # paths twice as long each time
        found = np.minimum(found @ found, 1)
    return found > 0
