"""The interval of a mean of values in [0, 1] that come in clusters, one for each prompt.

Shapes: M prompts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from scipy.stats import t as student

from riskalign.errors import InputError
from riskalign.evaluation.metrics import ENOUGH_PROMPTS, Floats, Interval


def few_differ(results: Sequence[Hashable]) -> bool:
    """Whether fewer than `ENOUGH_PROMPTS` prompts have another result than the commonest one.

    Then the sample's own spread says little: with none that differ it is 0, whatever the truth.
    """
    return len(results) - max(Counter(results).values(), default=0) < ENOUGH_PROMPTS


def few_means_differ(sums: Floats, counts: Floats) -> bool:
    """`few_differ` of each prompt's mean value, `sums / counts`, [M] both."""
    return few_differ([round(float(mean), 12) for mean in sums / counts])


def mean_interval(sums: Floats, counts: Floats, confidence: float = 0.95) -> Interval:
    """The mean of all values, `sums.sum() / counts.sum()`, with Wilson's score interval.

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
