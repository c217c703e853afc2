"""Intervals over prompts: bootstrapped ones, and exact ones where too few prompts differ.

Answers to one prompt are alike, so that prompts, not answers, are drawn with replacement
(Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8).

Shapes: M prompts (or records), n answers, R replicates.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv
from scipy.stats import t as student

from riskalign.errors import InputError
from riskalign.settings import Between, Count, NotLess, settings

Floats = NDArray[np.float64]

#: Draws [R, M] to a value for each [R].
Statistic: TypeAlias = Callable[[Floats], Floats]

#: From this many informative prompts on, a rate's clustering is estimated from the data alone.
ENOUGH_PROMPTS = 10
#: Bounds the weights held at once to a few tens of megabytes.
_ENTRIES_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A measured value with the ends of its confidence interval, in the metric's own unit."""

    value: float
    low: float
    high: float


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
        sizes = [block.stop - block.start for block in blocks(self.n_boot, max(n, entries))]
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


def blocks(rows: int, entries: int) -> list[slice]:
    """Slices of so many rows that a block of `entries` numbers a row fits into memory."""
    step = max(1, _ENTRIES_AT_ONCE // entries)
    return [slice(at, min(at + step, rows)) for at in range(0, rows, step)]


def mean_statistic(values: Floats, owners: NDArray[np.intp], n: int) -> Statistic:
    """The mean of values that belong to `owners`, indices of what is drawn, of which are n."""
    sums = np.bincount(owners, values, n)
    numbers = np.bincount(owners, minlength=n).astype(np.float64)

    def statistic(draws: Floats) -> Floats:
        with np.errstate(invalid="ignore"):  # a draw may hold none that has a value
            return np.asarray((draws @ sums) / (draws @ numbers))

    return statistic


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


def apart(a: Interval, b: Interval) -> Interval:
    """b less a, its interval from their own two (Newcombe, 1998, method 10)."""
    value = b.value - a.value
    return Interval(
        value,
        value - math.hypot(b.value - b.low, a.high - a.value),
        value + math.hypot(b.high - b.value, a.value - a.low),
    )


def seed_interval(values: Sequence[float], confidence: float) -> Interval | None:
    """Student's interval of the mean over seeds; None for a single seed.

    Each value carries the noise of its training and of its own evaluation prompts, so their spread
    holds both. With three seeds it is wide: its factor is 4.3 standard errors at 95 %.
    """
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    factor = float(student.ppf((1 + confidence) / 2, len(values) - 1))
    half = factor * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def binomial_interval(
    events: float, trials: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Exact two-sided interval of a rate (Clopper & Pearson, 1934).

    Fractional counts are allowed, as an effective sample size needs them.
    """
    miss = (1 - confidence) / 2
    low = 0.0 if events <= 0 else float(betaincinv(events, trials - events + 1, miss))
    high = 1.0 if events >= trials else float(betaincinv(events + 1, trials - events, 1 - miss))
    return low, high


def rare_rate_interval(
    events: Floats, sizes: Floats, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Exact interval of a clustered rate that few prompts inform; None where enough do.

    events [M] counts each prompt's events among its sizes [M] answers. Resampling cannot show
    events that were not drawn: with none in the sample a bootstrap interval has no width. So, with
    fewer than `ENOUGH_PROMPTS` prompts that differ from the common outcome, the binomial interval
    is taken at an effective sample size, answers / design effect (Korn & Graubard, 1998). The
    design effect is the largest possible (answers of a prompt all alike, so that prompts are what
    counts) with no such prompt, and moves in proportion to the estimated one as they appear.
    """
    informative = int(min((events > 0).sum(), (events < sizes).sum()))
    if informative >= ENOUGH_PROMPTS:
        return None
    n_prompts, n_answers = len(sizes), sizes.sum()
    rate = events.sum() / n_answers
    effect = n_answers / n_prompts
    if informative:
        residual = ((events - rate * sizes) ** 2).sum() * n_prompts / (n_prompts - 1)
        estimated = max(1.0, residual / (n_answers * rate * (1 - rate)))
        effect += (estimated - effect) * informative / ENOUGH_PROMPTS
    trials = n_answers / effect
    return binomial_interval(rate * trials, trials, confidence)


def few_differ(results: Sequence[Hashable]) -> bool:
    """Whether fewer than `ENOUGH_PROMPTS` prompts have another result than the commonest one.

    Then the sample's own spread says little: with none that differ it is 0, whatever the truth.
    """
    return len(results) - max(Counter(results).values(), default=0) < ENOUGH_PROMPTS


def few_means_differ(sums: Floats, counts: Floats) -> bool:
    """`few_differ` of each prompt's mean value, `sums / counts`, [M] both."""
    return few_differ([round(float(mean), 12) for mean in sums / counts])


def mean_interval(sums: Floats, counts: Floats, confidence: float = 0.95) -> Interval:
    """The mean of all values in [0, 1], `sums.sum() / counts.sum()`, with Wilson's score interval.

    Wilson (1927) with Student's quantile at an effective number of prompts: M p(1-p) / s², where s²
    is the variance of the prompts' contributions, so that answers to one prompt count as alike as
    they are and ties narrow the interval. Where few prompts differ (`few_differ`) it is M at most:
    no values in [0, 1] with mean p vary by more than p(1-p).

    Args:
        sums: each prompt's sum of values, [M].
        counts: how many values these are, [M], all above 0.
        confidence: of the interval, in (0, 1).

    Raises:
        InputError: no prompt, or a confidence out of range.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be in (0, 1), got {confidence}")
    M = len(sums)
    if M == 0:
        raise InputError("an interval needs at least one prompt")
    p = float(sums.sum() / counts.sum())
    bound = p * (1 - p)
    variance = bound
    if M > 1:
        residuals = (sums - p * counts) / counts.mean()
        own = float((residuals**2).sum() / (M - 1))
        variance = max(own, bound) if few_means_differ(sums, counts) else own
    # p is 0 or 1: the bound is 0 as well, and M prompts are what was seen.
    n = M if bound == 0 else M * bound / variance
    z2 = float(student.ppf((1 + confidence) / 2, max(M - 1, 1))) ** 2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (bound / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(p, min(p, max(0.0, middle - half)), max(p, min(1.0, middle + half)))
