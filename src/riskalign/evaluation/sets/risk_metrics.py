"""How well scores tell unsafe records from safe ones, with intervals over records.

Shapes: n records, R replicates, G different scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riskalign.errors import InputError
from riskalign.evaluation.intervals import Bootstrap, Floats, Interval, Statistic, auc_statistic
from riskalign.evaluation.sets.rates import clustered_rate


@dataclass(frozen=True)
class RiskMetrics:
    """Metrics of the decision "unsafe"; None where a class is missing.

    `recall` is the share of unsafe records called unsafe, `specificity` of safe ones called safe,
    `f1` that of the unsafe class, `auc` the probability that an unsafe record scores above a safe
    one, ties half.
    """

    n: int
    n_unsafe: int
    f1: Interval | None
    recall: Interval | None
    specificity: Interval | None
    accuracy: Interval | None
    auc: Interval | None


def risk_metrics(
    scores: Sequence[float] | Floats,
    unsafe: Sequence[bool],
    *,
    threshold: float = 0.0,
    bootstrap: Bootstrap | None = None,
) -> RiskMetrics:
    """Metrics of calling a record unsafe where its score is above the threshold.

    Intervals are percentiles of a bootstrap over records; of shares with few errors (or few
    successes) the exact binomial ones (`clustered_rate`). F1 and AUC have no exact one: with no
    error seen theirs has no width.

    Args:
        scores: [n], higher for unsafe.
        unsafe: [n], what is true.
        threshold: a score above it is called unsafe.
        bootstrap: of the intervals.

    Raises:
        InputError: no record, lengths that differ, or a score that is not finite.
    """
    bootstrap = bootstrap or Bootstrap()
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(unsafe, dtype=bool)
    if not len(s) or s.shape != y.shape or not np.isfinite(s).all():
        raise InputError("risk metrics need as many finite scores as labels, at least one")
    called = s > threshold
    f1 = auc = None
    if y.any():
        f1 = bootstrap.interval(_f1_statistic(called, y), len(y))
    if 0 < y.sum() < len(y):
        auc = bootstrap.interval(auc_statistic(s, y.astype(np.float64), np.arange(len(y))), len(y))
    return RiskMetrics(
        n=len(y),
        n_unsafe=int(y.sum()),
        f1=f1,
        recall=_share(called[y], bootstrap),
        specificity=_share(~called[~y], bootstrap),
        accuracy=_share(called == y, bootstrap),
        auc=auc,
    )


def _share(right: NDArray[np.bool_], bootstrap: Bootstrap) -> Interval | None:
    return clustered_rate(right.astype(np.float64), np.ones(len(right)), bootstrap)


def _f1_statistic(called: NDArray[np.bool_], unsafe: NDArray[np.bool_]) -> Statistic:
    """2 TP / (2 TP + FP + FN)."""
    hit, wrong = (called & unsafe).astype(np.float64), (called != unsafe).astype(np.float64)

    def statistic(draws: Floats) -> Floats:
        hits, errors = draws @ hit, draws @ wrong
        with np.errstate(invalid="ignore"):  # a draw may hold safe records, all called safe, alone
            return np.asarray(2 * hits / (2 * hits + errors))

    return statistic
