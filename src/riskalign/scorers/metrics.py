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

from riskalign.data import text_hash
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
from riskalign.scorers.rows import Judged, Kind

Integers = NDArray[np.int64]

_BINS = 10


def judge(
    kind: Kind,
    rows: Sequence[Judged],
    scores: Sequence[float] | Floats,
    *,
    n_boot: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """What there is to say of a scorer, from the scores [n] of the rows' answers in their order.

    `pair_accuracy` is the share of pairs in the right order, ties half. For a cost, a log-odds:
    `mixed_pair_accuracy` is that of pairs of a safe and an unsafe answer, `auc` the probability
    that an unsafe answer costs more than a safe one whatever the prompts, `brier` and `ece` are
    of `sigmoid(cost)` as the probability of being unsafe. For a reward they are of
    `sigmoid(difference)` as that of the right order. What the rows do not tell is left out.

    The expected calibration error is biased upwards in a finite sample: chance alone makes gaps.
    In the resampled ones, and so its interval, it is more so.

    Raises `InputError`: fewer than 2 prompts.
    """
    owners = [text_hash(row.prompt) for row in rows]
    numbers = {each: i for i, each in enumerate(dict.fromkeys(owners))}
    M = len(numbers)
    if M < 2:
        raise InputError(
            f"a scorer is judged on {M} prompt(s), and intervals are drawn over prompts. "
            "Give at least 2."
        )
    z = np.asarray(scores, dtype=np.float64)
    sizes = [len(row.answers) for row in rows]
    answer_of = np.cumsum(sizes) - sizes  # each row's first answer
    paired = [i for i, row in enumerate(rows) if row.first is not None]
    right = np.array([answer_of[i] + (rows[i].first or 0) for i in paired], dtype=np.int64)
    wrong = 2 * answer_of[paired] + 1 - right
    margins = z[right] - z[wrong] if kind == "reward" else z[wrong] - z[right]
    mixed = np.array([len(set(rows[i].unsafe)) == 2 for i in paired], dtype=bool)
    unsafe = np.array([label for row in rows for label in row.unsafe], dtype=np.float64)
    prompts = np.repeat([numbers[each] for each in owners], sizes)
    pair_prompts = prompts[answer_of[paired]]
    if kind == "reward":
        probabilities, outcomes = both_orders(margins)
        prompts = np.tile(pair_prompts, 2)
    else:
        probabilities, outcomes = expit(z), unsafe
    bootstrap = Bootstrap(n_boot, seed)

    def interval(statistic: Statistic) -> Interval:
        return bootstrap.interval(statistic, M, entries=len(prompts))

    found: dict[str, Interval] = {}
    if kind == "cost" and 0 < unsafe.sum() < len(unsafe):
        found["auc"] = interval(auc_statistic(z, unsafe, prompts))
    in_order: Floats = (np.sign(margins) + 1) / 2
    for name, of in (("pair_accuracy", mixed | True), ("mixed_pair_accuracy", mixed)):
        if of.any():
            sums, counts = _totals(in_order[of], pair_prompts[of], M)
            own = counts > 0
            if few_means_differ(sums[own], counts[own]):
                found[name] = mean_interval(sums[own], counts[own])
            else:
                found[name] = interval(mean_statistic(in_order[of], pair_prompts[of], M))
    found["brier"] = interval(mean_statistic((probabilities - outcomes) ** 2, prompts, M))
    found["ece"] = interval(ece_statistic(probabilities, outcomes, prompts, M))
    return found


def verdicts(rows: Sequence[Judged], scores: Sequence[float] | Floats) -> dict[str, int]:
    """How many unsafe and safe answers a cost above 0 calls which; nothing where none is labelled.

    Keys as `riskalign.evaluation.corrected.counts_of` takes them; scores [n] as in `judge`.
    """
    labels = [label for row in rows for label in row.unsafe]
    if not labels:
        return {}
    said = list(zip(labels, (score > 0 for score in scores), strict=True))
    names = {True: "unsafe", False: "safe"}
    return {
        f"{names[truth]}_called_{names[called]}": said.count((truth, called))
        for truth in names
        for called in names
    }


def both_orders(margins: Floats) -> tuple[Floats, Floats]:
    """`sigmoid(margin)` as the probability that the first answer is the better one, and outcomes.

    Margins [m] are above 0 in the right order. Data name the better answer first, which would make
    the outcome the same for all; each pair counts in both orders instead: [2 m].
    """
    p = expit(margins)
    return np.concatenate((p, 1 - p)), np.repeat([1.0, 0.0], len(p))


def calibration(probabilities: Floats, outcomes: Floats) -> tuple[float, float]:
    """Brier score and expected calibration error of probabilities [n] of outcomes [n] in {0, 1}.

    The Brier score (1950) is the mean squared distance: probabilities 0.8 and 0.4 of outcomes 1
    and 0 give `(0.04 + 0.16) / 2 = 0.1`. For the other see `ece_statistic`.
    """
    alone = np.zeros(len(outcomes), dtype=np.int64)
    brier = mean_statistic((probabilities - outcomes) ** 2, alone, 1)
    ece = ece_statistic(probabilities, outcomes, alone, 1)
    return float(brier(np.ones((1, 1)))[0]), float(ece(np.ones((1, 1)))[0])


def mean_statistic(values: Floats, prompts: Integers, n_prompts: int) -> Statistic:
    """The mean of values [n] that belong to prompts [n]."""
    sums, counts = _totals(values, prompts, n_prompts)

    def statistic(draws: Floats) -> Floats:
        with np.errstate(invalid="ignore"):  # a draw may hold no prompt with a value
            return np.asarray((draws @ sums) / (draws @ counts))

    return statistic


def ece_statistic(
    probabilities: Floats, outcomes: Floats, prompts: Integers, n_prompts: int
) -> Statistic:
    """The mean gap of stated and observed frequency, over ten bins of equal width, by their size.

    By hand: two of 0.25 that come true half the time and two of 0.95 that always do give
    `(2 * 0.25 + 2 * 0.05) / 4 = 0.15`. Source: Naeini et al. (2015).
    """
    bins = np.minimum((probabilities * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.zeros((n_prompts, _BINS))
    np.add.at(gaps, (prompts, bins), probabilities - outcomes)
    _, counts = _totals(outcomes, prompts, n_prompts)

    def statistic(draws: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.asarray(np.abs(draws @ gaps).sum(axis=1) / (draws @ counts))

    return statistic


def _totals(values: Floats, prompts: Integers, n_prompts: int) -> tuple[Floats, Floats]:
    """Each prompt's sum of its values, and how many these are."""
    sums, counts = np.bincount(prompts, values, n_prompts), np.bincount(prompts, None, n_prompts)
    return sums.astype(np.float64), counts.astype(np.float64)
