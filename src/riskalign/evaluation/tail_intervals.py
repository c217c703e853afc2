"""Intervals of CVaR, and of a difference of two, from answers clustered on prompts.

Where enough prompts lie in the tail, a studentised bootstrap (Davison & Hinkley, 1997, section
5.2): each replicate is measured by its own standard error, which percentiles leave out and so end
too low under heavy tails, and the interval is widened to that under a fitted tail
(`extrapolation`). Where few do, the tail is resampled from too little: if unsafe answers are rare,
the upper end follows from the exact interval of their rate, with the severities seen of any model
of the comparison; if they are not, it is the distribution-free bound where the largest cost is
known, and the fitted tail's where it is not. benchmarks/coverage.py shows how often each holds
the truth.

Shapes: n answers, M prompts, R replicates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riskalign.evaluation.extrapolation import cvar_under, fit_tail
from riskalign.evaluation.metrics import ENOUGH_PROMPTS, Floats, Interval, tail


@dataclass(frozen=True)
class TailSample:
    """One model's CVaR at one level with what its interval needs.

    `value` and replicates `values` [R]; `excess` [M], each prompt's sum of
    `(cost - VaR)_+ / (1 - a)`, and `sizes` [M], its answers.
    """

    value: float
    values: Floats
    excess: Floats
    sizes: Floats

    @property
    def prompts_in_tail(self) -> int:
        """Prompts with an answer above VaR."""
        return int((self.excess > 0).sum())

    def influence(self, draws: Floats) -> Floats:
        """How far each prompt moves CVaR in each replicate: [R, M], mean 0 under its weights."""
        mean = (draws @ self.excess) / (draws @ self.sizes)
        size = (draws @ self.sizes) / draws.sum(axis=1)
        moved: Floats = (self.excess - mean[:, None] * self.sizes) / size[:, None]
        return moved


def tail_sample(
    costs: Floats,
    prompt: NDArray[np.intp],
    sizes: Floats,
    level: float,
    value: float,
    values: Floats,
) -> TailSample:
    """From answers' costs [n] and the prompt [n] that each answers."""
    var = float(tail(costs, np.ones((1, costs.size)), [level])[0][0, 0])
    over = np.clip(costs - var, 0, None) / (1 - level)
    excess = np.zeros(sizes.size)
    np.add.at(excess, prompt, over)
    return TailSample(value, values, excess, sizes)


def _standard_error(influence: Floats, draws: Floats) -> Floats:
    """Of each replicate: [R]."""
    error: Floats = np.sqrt((draws * influence**2).sum(axis=1)) / draws.sum(axis=1)
    return error


def _studentised(
    value: float, values: Floats, influence: Floats, observed: Floats, draws: Floats, level: float
) -> Interval:
    """Interval from replicates' distances from the value in units of their standard errors."""
    error = _standard_error(observed, np.ones((1, draws.shape[1])))[0]
    errors = _standard_error(influence, draws)
    known = errors > 0
    scores = (values[known] - value) / errors[known]
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(value - high * error), float(value - low * error))


def cvar_interval(
    sample: TailSample,
    draws: Floats,
    level: float,
    confidence: float,
    rate_high: float,
    severities: Sequence[float] | Floats,
    max_cost: float | None,
    bound: float | None,
    rare: bool,
    extrapolated: tuple[float, float] | None,
) -> Interval:
    """CVaR's interval; `rate_high` is the unsafe rate's upper end, `draws` [R, M] the resampling.

    `bound` is a distribution-free upper bound where the largest cost is known: it takes the place
    of the upper end where the tail is thin although unsafe answers are not rare, for then it is
    their severity that has not been seen. `extrapolated` are the ends under a fitted tail. Ends
    are kept within 0 and `max_cost`; the upper one is infinite where the sample rules nothing out.
    """
    low, high = np.quantile(sample.values, [(1 - confidence) / 2, (1 + confidence) / 2])
    if sample.prompts_in_tail >= ENOUGH_PROMPTS:
        once = np.ones((1, draws.shape[1]))
        found = _studentised(
            sample.value,
            sample.values,
            sample.influence(draws),
            sample.influence(once),
            draws,
            confidence,
        )
        # Studentised ends err high at both sides where few atoms carry the tail.
        low, high = min(low, found.low), found.high
    else:
        high = max(float(high), _at_rate(rate_high, severities, level, max_cost))
        if bound is not None and not rare:
            high = max(high, bound)
    if extrapolated is not None and not rare:
        low, high = min(low, extrapolated[0]), max(high, extrapolated[1])
    low, high = max(0.0, float(low)), float(high)
    if max_cost is not None:
        high = min(high, max(max_cost, sample.value))
    return Interval(sample.value, min(low, sample.value), max(high, sample.value))


def _at_rate(
    rate: float, severities: Sequence[float] | Floats, level: float, max_cost: float | None
) -> float:
    """CVaR if answers were unsafe at this rate and as severe as those seen.

    Without a largest cost, severities above those seen are foreseen by a fitted tail; where there
    are none, or too few to fit one, nothing is ruled out.
    """
    seen = np.asarray(severities, dtype=np.float64)
    if not seen.size:
        seen = np.array([math.inf if max_cost is None else max_cost])
    if rate <= 0 or math.isinf(seen[0]):
        return 0.0 if rate <= 0 else math.inf
    costs = np.append(seen, 0.0)
    weights = np.append(np.full(seen.size, rate / seen.size), 1 - rate)
    if max_cost is None:
        fitted = fit_tail(seen, max(30, seen.size // 2), None)
        if fitted is not None:
            return cvar_under(fitted, costs, weights, 1 - level)
        if seen.size < ENOUGH_PROMPTS:
            return math.inf
    return float(tail(costs, weights[None, :], [level])[1][0, 0])


def cvar_difference(
    a: TailSample,
    b: TailSample,
    ends_a: Interval,
    ends_b: Interval,
    draws: Floats,
    confidence: float,
    extended: bool,
) -> Interval:
    """Interval of b less a on the same drawn prompts.

    Studentised where both tails hold enough prompts and neither needed a fitted tail
    (`extended`); else put together from the two own intervals (as Newcombe, 1998, method 10, does
    for rates), which leaves the pairing out and errs wide.
    """
    if not extended and min(a.prompts_in_tail, b.prompts_in_tail) >= ENOUGH_PROMPTS:
        once = np.ones((1, draws.shape[1]))
        return _studentised(
            b.value - a.value,
            b.values - a.values,
            b.influence(draws) - a.influence(draws),
            b.influence(once) - a.influence(once),
            draws,
            confidence,
        )
    return apart(ends_a, ends_b)


def apart(a: Interval, b: Interval) -> Interval:
    """b less a, its interval from their own two (Newcombe, 1998, method 10)."""
    value = b.value - a.value
    return Interval(
        value,
        value - math.hypot(b.value - b.low, a.high - a.value),
        value + math.hypot(b.high - b.value, a.value - a.low),
    )
