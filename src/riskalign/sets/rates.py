"""Shares with intervals over what was drawn independently: prompts, or records.

Shapes: M prompts, R replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riskalign.errors import InputError, check_rules
from riskalign.evaluation.metrics import Floats, Interval, binomial_interval, rare_rate_interval

#: Bounds the weights held at once to a few tens of megabytes.
_ENTRIES_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn: replicates, seed, and the probability that they cover."""

    n_boot: int = 2000
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        """Refuse numbers out of range with `InputError`."""
        check_rules(
            self,
            [
                ("n_boot", self.n_boot >= 1, "1 or more"),
                ("confidence", 0 < self.confidence < 1, "a number between 0 and 1"),
            ],
        )

    def draws(self, n: int) -> list[Floats]:
        """How often each of n is drawn, in blocks [R, n] of which all rows sum to n."""
        generator = np.random.default_rng(self.seed)
        rows = max(1, _ENTRIES_AT_ONCE // n)
        sizes = [min(rows, self.n_boot - at) for at in range(0, self.n_boot, rows)]
        shares = np.full(n, 1 / n)
        return [generator.multinomial(n, shares, size=size).astype(np.float64) for size in sizes]

    def ends(self, value: float, replicates: Floats) -> Interval:
        """The percentile interval around `value`; replicates that are NaN are left out."""
        tails = [(1 - self.confidence) / 2, (1 + self.confidence) / 2]
        low, high = np.nanquantile(replicates, tails)
        return Interval(value, float(low), float(high))


def clustered_rate(
    events: Sequence[float] | NDArray[np.float64],
    sizes: Sequence[float] | NDArray[np.float64],
    bootstrap: Bootstrap,
) -> Interval | None:
    """A share of answers, clustered on prompts: events [M] among sizes [M] answers of each prompt.

    Events may be fractions (half a win). Percentiles of a bootstrap over prompts; where fewer than
    ten prompts inform the rate, the exact interval of `rare_rate_interval`, which has a width even
    where nothing happened. None without prompts.

    Raises:
        InputError: lengths that differ, or events outside [0, size].
    """
    e, s = np.asarray(events, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    if e.shape != s.shape or (s <= 0).any() or (e < 0).any() or (e > s + 1e-9).any():
        raise InputError("a rate needs, for each prompt, from 0 to all of its answers as events")
    if not len(e):
        return None
    value = float(e.sum() / s.sum())
    if len(e) == 1:
        return Interval(value, *binomial_interval(value, 1.0, bootstrap.confidence))
    exact = rare_rate_interval(e, s, bootstrap.confidence)
    if exact is not None:
        return Interval(value, *exact)
    many = np.concatenate([(draw @ e) / (draw @ s) for draw in bootstrap.draws(len(e))])
    return bootstrap.ends(value, many)
