"""What is drawn for intervals, and what its draws make of an order of scores.

Shapes: M prompts (or records), n answers, R replicates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from riskalign.evaluation.metrics import Floats, Interval
from riskalign.settings import Between, Count, NotLess, settings

#: Draws [R, M] to a value for each [R].
Statistic: TypeAlias = Callable[[Floats], Floats]

#: Bounds the weights held at once to a few tens of megabytes.
_ENTRIES_AT_ONCE = 2_000_000


@settings
class Bootstrap:
    """How intervals are drawn: replicates, seed, and the probability that they cover."""

    n_boot: Count = 2000
    seed: NotLess = 0
    confidence: Between = 0.95

    def draws(self, n: int, entries: int = 0) -> list[Floats]:
        """How often each of n is drawn, in blocks [R, n] of which all rows sum to n.

        `entries` is how many numbers a replicate will be made into, where more than n.
        """
        generator = np.random.default_rng(self.seed)
        rows = max(1, _ENTRIES_AT_ONCE // max(n, entries))
        sizes = [min(rows, self.n_boot - at) for at in range(0, self.n_boot, rows)]
        shares = np.full(n, 1 / n)
        return [generator.multinomial(n, shares, size=size).astype(np.float64) for size in sizes]

    def ends(self, value: float, replicates: Floats) -> Interval:
        """The percentile interval around `value`; replicates that are NaN are left out."""
        tails = [(1 - self.confidence) / 2, (1 + self.confidence) / 2]
        low, high = np.nanquantile(replicates, tails)
        return Interval(value, float(low), float(high))

    def interval(self, statistic: Statistic, n: int, *, entries: int = 0) -> Interval:
        """A statistic of n with its percentile interval; `entries` as in `draws`."""
        many = np.concatenate([statistic(draws) for draws in self.draws(n, entries)])
        return self.ends(float(statistic(np.ones((1, n)))[0]), many)


def auc_statistic(scores: Floats, labels: Floats, owners: NDArray[np.int64]) -> Statistic:
    """The area under the ROC curve: P(a label-1 score is above a label-0 score), ties half.

    Shapes: scores [n], labels [n] in {0, 1}, and owners [n], which of the M each answer belongs to.
    NaN for a draw that holds one class alone.

    By hand: scores 1, 2, 2, 3 of labels 0, 0, 1, 1 give `(1 + 1/2 + 1 + 1) / 4 = 0.875`.
    """
    order = np.argsort(scores, kind="stable")
    ranked, positive, owner = scores[order], labels[order] > 0.5, owners[order]
    starts = np.flatnonzero(np.append(True, ranked[1:] > ranked[:-1]))

    def statistic(draws: Floats) -> Floats:
        weights = draws[:, owner]
        ones = np.add.reduceat(weights * positive, starts, axis=1)
        zeros = np.add.reduceat(weights * ~positive, starts, axis=1)
        below = np.cumsum(zeros, axis=1) - zeros / 2
        with np.errstate(invalid="ignore"):
            return np.asarray((ones * below).sum(axis=1) / (ones.sum(axis=1) * zeros.sum(axis=1)))

    return statistic
