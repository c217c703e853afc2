"""Shares with intervals over what was drawn independently: prompts, or records.

Shapes: M prompts, R replicates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from riskalign.errors import InputError
from riskalign.evaluation.intervals import (
    Bootstrap,
    Interval,
    binomial_interval,
    few_means_differ,
    mean_interval,
    rare_rate_interval,
)


def clustered_rate(
    events: Sequence[float] | NDArray[np.float64],
    sizes: Sequence[float] | NDArray[np.float64],
    bootstrap: Bootstrap,
) -> Interval | None:
    """A share of answers, clustered on prompts: events [M] among sizes [M] answers of each prompt.

    Events may be fractions (half a win). Percentiles of a bootstrap over prompts; where fewer than
    ten prompts inform the rate, the exact interval of `rare_rate_interval`, which has a width even
    where nothing happened, and where as few have another share than the commonest one, as ties
    all have, that of `mean_interval`. None without prompts.

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
    if few_means_differ(e, s):
        return mean_interval(e, s, bootstrap.confidence)
    many = np.concatenate([(draw @ e) / (draw @ s) for draw in bootstrap.draws(len(e))])
    return bootstrap.ends(value, many)
