"""How good a scorer is on prompts it has not seen, with intervals by a bootstrap over prompts.

Judgements of answers to one prompt are alike, so that prompts are drawn with replacement; the
intervals are percentile intervals (Davison & Hinkley, 1997, sections 3.8 and 5.3), but for those of
accuracies where few prompts differ, of which `mean_interval` is not certain.

Shapes: n answers, m pairs, M prompts, R replicates.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from riskalign.data.identity import text_hash
from riskalign.errors import InputError
from riskalign.evaluation.intervals import (
    Bootstrap,
    Interval,
    Statistic,
    auc_statistic,
    few_means_differ,
    mean_interval,
)
from riskalign.scorers.logistic import Floats
from riskalign.scorers.rows import Judged
from riskalign.scorers.scorer_data import Kind

Integers = NDArray[np.int64]

_BINS = 10


def judge(
    kind: Kind,
    rows: Sequence[Judged],
    scores: Sequence[float] | Floats,
    *,
    n_boot: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """What there is to say of a scorer, from the scores [n] of the rows' answers in their order.

    `pair_accuracy` is the share of pairs in the right order, ties half. For a cost, a log-odds:
    `mixed_pair_accuracy` is that of pairs of a safe and an unsafe answer, `auc` the probability
    that an unsafe answer costs more than a safe one whatever the prompts, `brier` and `ece` are
    of `sigmoid(cost)` as the probability of being unsafe. For a reward they are of
    `sigmoid(difference)` as that of the right order, each pair in both orders, since data name the
    better answer first. What the rows do not tell is left out.

    The expected calibration error, in ten bins of equal width, is biased upwards in a finite
    sample: chance alone makes gaps. In the resampled ones, and so its interval, it is more so.

    Raises:
        InputError: fewer than 2 prompts.
    """
    numbers = {each: i for i, each in enumerate(dict.fromkeys(map(_owner, rows)))}
    M = len(numbers)
    if M < 2:
        raise InputError(
            f"a scorer is judged on {M} prompt(s), and intervals are drawn over prompts. "
            "Give at least 2."
        )
    z = np.asarray(scores, dtype=np.float64)
    prompts = np.array([numbers[_owner(row)] for row in rows for _ in row.answers])
    margins, pair_prompts, mixed = _pairs(kind, rows, z, prompts)
    right = (np.sign(margins) + 1) / 2
    statistics: dict[str, Statistic] = {}
    if kind == "cost":
        unsafe = np.array([label for row in rows for label in row.unsafe], dtype=np.float64)
        if 0 < unsafe.sum() < len(unsafe):
            statistics["auc"] = auc_statistic(z, unsafe, prompts)
        probabilities, outcomes, owners = expit(z), unsafe, prompts
    else:
        p = expit(margins)
        probabilities, owners = np.concatenate((p, 1 - p)), np.tile(pair_prompts, 2)
        outcomes = np.repeat([1.0, 0.0], len(p))
    if len(margins):
        statistics["pair_accuracy"] = mean_statistic(right, pair_prompts, M)
    if mixed.any():
        statistics["mixed_pair_accuracy"] = mean_statistic(right[mixed], pair_prompts[mixed], M)
    statistics["brier"] = mean_statistic((probabilities - outcomes) ** 2, owners, M)
    statistics["ece"] = ece_statistic(probabilities, outcomes, owners, M)
    bootstrap = Bootstrap(n_boot, seed, confidence)
    found = {
        name: bootstrap.interval(statistic, M, entries=len(owners))
        for name, statistic in statistics.items()
    }
    every = np.ones(len(right), dtype=bool)
    for name, of in (("pair_accuracy", every), ("mixed_pair_accuracy", mixed)):
        if name in found:
            _, owner, pairs = np.unique(pair_prompts[of], return_inverse=True, return_counts=True)
            sums: Floats = np.bincount(owner, right[of]).astype(np.float64)
            counts: Floats = pairs.astype(np.float64)
            if few_means_differ(sums, counts):
                found[name] = mean_interval(sums, counts, confidence)
    return found


def _owner(row: Judged) -> str:
    return text_hash(row.prompt)


def _pairs(
    kind: Kind, rows: Sequence[Judged], z: Floats, prompts: Integers
) -> tuple[Floats, Integers, NDArray[np.bool_]]:
    """Margins [m], above 0 in the right order, their prompts, and which pairs are mixed."""
    margins, owners, mixed = [], [], []
    at = 0
    for row in rows:
        if row.first is not None:
            first, other = z[at + row.first], z[at + 1 - row.first]
            margins.append(first - other if kind == "reward" else other - first)
            owners.append(prompts[at])
            mixed.append(len(set(row.unsafe)) == 2)
        at += len(row.answers)
    return np.array(margins), np.array(owners, dtype=np.int64), np.array(mixed, dtype=bool)


def mean_statistic(values: Floats, prompts: Integers, n_prompts: int) -> Statistic:
    """The mean of values [n] that belong to prompts [n]."""
    sums = np.bincount(prompts, values, n_prompts)
    numbers = np.bincount(prompts, minlength=n_prompts).astype(np.float64)

    def statistic(draws: Floats) -> Floats:
        with np.errstate(invalid="ignore"):  # a draw may hold no prompt with a value
            return np.asarray((draws @ sums) / (draws @ numbers))

    return statistic


def ece_statistic(
    probabilities: Floats, outcomes: Floats, prompts: Integers, n_prompts: int
) -> Statistic:
    """The expected calibration error of `riskalign.scorers.calibration`, in ten bins."""
    bins = np.minimum((probabilities * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.zeros((n_prompts, _BINS))
    np.add.at(gaps, (prompts, bins), probabilities - outcomes)
    sizes = np.bincount(prompts, minlength=n_prompts).astype(np.float64)

    def statistic(draws: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.asarray(np.abs(draws @ gaps).sum(axis=1) / (draws @ sizes))

    return statistic
