"""VaR and CVaR of a sample of costs, and CVaR's interval.

The measures are those of `riskalign.risk`, taken under the empirical distribution: CVaR at level a
is the mean of the worst 1 - a of probability mass with the atom at the quantile split exactly
(Rockafellar & Uryasev, "Optimization of conditional value-at-risk", 2000); VaR is the lower
quantile at which that tail starts.

Where enough prompts lie in the tail, CVaR's interval is a studentised bootstrap (Davison & Hinkley,
1997, section 5.2): each replicate is measured by its own standard error, which percentiles leave
out and so end too low under heavy tails. Where few do, the tail is resampled from too little: if
unsafe answers are rare, the upper end follows from the exact interval of their rate, with the
severities seen of any model of the comparison; if they are not, it moves to the
distribution-free bound, prompt by prompt, where the largest cost is known.

A sample of heavy-tailed costs mostly lacks the catastrophes that its CVaR is made of, and so does
every resample of it. Both intervals are therefore widened to that under a fitted tail: the largest
costs are replaced by a generalised Pareto distribution, the limit that exceedances of a high
threshold have under broad conditions (Pickands, 1975), fitted by Zhang & Stephens (2009) with the
shape shrunk as Vehtari et al. (2024) do, and, so that the end errs on the safe side, with a shape
at the upper end of what the sample allows. The ratio of sample CVaR to true CVaR is then simulated
in that world. benchmarks/coverage.py shows how often each interval holds the truth.

Shapes: n answers, M prompts, k exceedances, R replicates (rows of weights).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from riskalign.errors import InputError
from riskalign.evaluation.intervals import ENOUGH_PROMPTS, Floats, Interval

#: Relative slack on probability mass: 1 - 0.9 is not 0.1 in binary, and VaR is discontinuous there.
_MASS_SLACK = 1e-9
#: Fewer exceedances than this tell nothing of a tail's shape.
FEWEST = 5
#: The shape is shrunk to this value as if this many exceedances had said so (Vehtari et al., 2024).
_PRIOR_SHAPE, _PRIOR_WEIGHT = 0.5, 10.0
#: Confidence of the shape's one-sided upper end.
_SHAPE_CONFIDENCE = 0.9
#: Of the simulation under the fitted tail.
_REPLICATES = 1000


def check_level(level: float) -> None:
    """Refuse a tail level outside [0, 1) with `InputError`."""
    if not 0 <= level < 1:
        raise InputError(f"a tail level must be in [0, 1), got {level}: 0.95 means the worst 5 %")


def tail(costs: Floats, weights: Floats, levels: Sequence[float]) -> tuple[Floats, Floats]:
    """VaR and CVaR of weighted samples, all rows of weights at once.

    costs [n] in any order; weights [R, n] non-negative, each row of positive sum (a bootstrap
    replicate's counts, or ones). Returns two arrays [len(levels), R] in the unit of the costs; VaR
    at level 0 is the smallest cost, whatever its weight.

    Columns at the smallest cost are left out of the work: after subtracting it they add nothing,
    and where most answers are safe they are most of the sample.
    """
    for level in levels:
        check_level(level)
    floor = costs.min()
    above = np.flatnonzero(costs > floor)
    above = above[np.argsort(-costs[above], kind="stable")]
    excess = costs[above] - floor
    total = weights.sum(axis=1)
    mass = weights[:, above]
    reached = np.cumsum(mass, axis=1)
    padded = np.append(excess, 0.0)
    var = np.empty((len(levels), len(weights)))
    cvar = np.empty_like(var)
    for i, level in enumerate(levels):
        share = (1 - level) * total
        inside = (reached <= (share + _MASS_SLACK * total)[:, None]).sum(axis=1)
        var[i] = floor + padded[inside]
        stop = min(int(inside.max()) + 1, len(above))
        before = reached[:, :stop] - mass[:, :stop]
        taken = np.clip(share[:, None] - before, 0, mass[:, :stop])
        cvar[i] = floor + taken @ excess[:stop] / share
    return var, cvar


def _empirical(costs: Sequence[float] | Floats, level: float) -> tuple[float, float]:
    sample = np.asarray(costs, dtype=np.float64)
    var, cvar = tail(sample, np.ones((1, sample.size)), [level])
    return float(var[0, 0]), float(cvar[0, 0])


def empirical_var(costs: Sequence[float] | Floats, level: float) -> float:
    """Smallest sampled cost c with P(cost > c) <= 1 - level.  costs [n], not empty."""
    return _empirical(costs, level)[0]


def empirical_cvar(costs: Sequence[float] | Floats, level: float) -> float:
    """Mean of the worst 1 - level of the sample's mass, splitting the last atom.  costs [n]."""
    return _empirical(costs, level)[1]


@dataclass(frozen=True)
class TailSample:
    """Costs [n] of answers to prompts prompt [n], and their VaR and CVaR at one level.

    `draws` [R, M] is how often each replicate takes each prompt, `values` [R] its CVaR.
    """

    costs: Floats
    prompt: NDArray[np.intp]
    draws: Floats
    level: float
    var: float
    value: float
    values: Floats

    @cached_property
    def sizes(self) -> Floats:
        """Each prompt's answers [M]."""
        return np.bincount(self.prompt, minlength=self.draws.shape[1]).astype(np.float64)

    @cached_property
    def excess(self) -> Floats:
        """Each prompt's sum of `(cost - VaR)_+ / (1 - a)`, [M]."""
        over = np.clip(self.costs - self.var, 0, None) / (1 - self.level)
        return np.bincount(self.prompt, over, self.draws.shape[1]).astype(np.float64)

    @property
    def informed(self) -> float:
        """How far resampling can tell of the tail: 1 where enough prompts have an answer above VaR.

        0 up to one such prompt, whose replicates have no spread; between, in proportion to them.
        """
        above = int((self.excess > 0).sum())
        return 0.0 if above < 2 else min(1.0, above / ENOUGH_PROMPTS)

    def influence(self, draws: Floats) -> Floats:
        """How far each prompt moves CVaR in each replicate: [R, M], mean 0 under its weights."""
        mean = (draws @ self.excess) / (draws @ self.sizes)
        size = (draws @ self.sizes) / draws.sum(axis=1)
        moved: Floats = (self.excess - mean[:, None] * self.sizes) / size[:, None]
        return moved


def studentised(
    value: float,
    values: Floats,
    influence: Callable[[Floats], Floats],
    draws: Floats,
    confidence: float,
) -> Interval:
    """Interval from replicates' distances from the value in units of their standard errors.

    Of no width where neither they nor the sample have one, infinite where the sample alone does.
    """

    def standard_error(draws: Floats) -> Floats:
        error: Floats = np.sqrt((draws * influence(draws) ** 2).sum(axis=1)) / draws.sum(axis=1)
        return error

    error, errors = standard_error(np.ones((1, draws.shape[1])))[0], standard_error(draws)
    known = errors > 0
    if not known.any():  # as of two models that answer alike, or of few replicates of a thin tail
        far = math.inf if error > 0 else 0.0
        return Interval(value, value - far, value + far)
    scores = (values[known] - value) / errors[known]
    low, high = np.quantile(scores, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(value - high * error), float(value - low * error))


def cvar_interval(
    sample: TailSample,
    confidence: float,
    *,
    rate_high: float,
    rare: bool,
    severities: Sequence[float] | Floats,
    max_cost: float | None,
    bound: float | None,
) -> tuple[Interval, bool]:
    """CVaR's interval, and whether resampling alone gave it.

    `rate_high` is the unsafe rate's upper end, `rare` whether few prompts show an unsafe answer,
    and `bound` a distribution-free upper bound where the largest cost is known: the upper end moves
    to it as the tail gets thin although unsafe answers are not rare, for then it is their severity
    that has not been seen. Ends are kept within 0 and `max_cost`; the upper one is infinite where
    the sample rules nothing out.
    """
    percentiles = np.quantile(sample.values, [(1 - confidence) / 2, (1 + confidence) / 2])
    fitted = None if rare else extrapolated_ends(sample, confidence, max_cost)
    least, most = fitted or (math.inf, 0.0)
    largest = math.inf if max_cost is None else max(max_cost, sample.value)

    def kept(low: float, high: float) -> Floats:
        low, high = min(low, least, sample.value), min(max(high, most, sample.value), largest)
        return np.array([max(0.0, low), high])

    informed = sample.informed
    if bound is None or rare:  # there is no bound to move to
        informed = math.floor(informed)
    ends = np.zeros(2)
    if informed > 0:
        own = studentised(sample.value, sample.values, sample.influence, sample.draws, confidence)
        # Studentised ends err high at both sides where few atoms carry the tail.
        ends += informed * kept(min(percentiles[0], own.low), own.high)
    if informed < 1:
        high = max(percentiles[1], _at_rate(rate_high, severities, sample.level, max_cost))
        if bound is not None and not rare:
            high = max(high, bound)
        ends += (1 - informed) * kept(percentiles[0], high)
    # Where the two meet, a mean of theirs may be rounded beyond the value.
    low, high = min(float(ends[0]), sample.value), max(float(ends[1]), sample.value)
    found = Interval(sample.value, low, high)
    return found, sample.informed == 1 and (fitted is None or found.high > most)


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


@dataclass(frozen=True)
class FittedTail:
    """Costs above `threshold`: generalised Pareto with `shape` (xi) and `scale` (sigma).

    `most` is the largest cost there can be; without one it is infinite, and so is the mean for a
    shape of 1 or more.
    """

    threshold: float
    shape: float
    scale: float
    most: float = math.inf

    def quantile(self, exceeded: Floats) -> Floats:
        """The cost that a share `exceeded` in (0, 1] of the tail lies above; any shape."""
        ratio = self.scale / self.shape
        with np.errstate(over="ignore"):
            costs = self.threshold + ratio * (exceeded**-self.shape - 1.0)
        return np.minimum(costs, self.most)

    def mean_of_top(self, share: float) -> float:
        """Mean of the worst `share` of the tail: the integral of `quantile` over it."""
        if math.isinf(self.most) and self.shape >= 1:
            return math.inf
        ratio = self.scale / self.shape
        # Share of the tail that is cut off at `most`.
        base = 1.0 + (self.most - self.threshold) / ratio
        cut = base ** (-1.0 / self.shape) if base > 0 else 0.0
        if cut >= share:
            return self.most
        power = 1.0 - self.shape

        def integral(upto: float) -> float:
            return (self.threshold - ratio) * upto + ratio * (upto**power if upto else 0.0) / power

        capped = cut * self.most if cut else 0.0
        return (capped + integral(share) - (integral(cut) if cut else 0.0)) / share


def fit_shape(excesses: Floats) -> float:
    """Shape xi of a generalised Pareto distribution, from excesses [k] over its threshold.

    Zhang & Stephens (2009), "A new and efficient estimation method for the generalized Pareto
    distribution": the posterior mean of `theta = -xi / sigma` on a grid under a prior from the
    data, and the profile estimate of xi at that theta.
    """
    ordered = np.sort(excesses)
    k = len(ordered)
    points = 30 + int(math.sqrt(k))
    theta = (1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))) / (
        3 * ordered[int(k / 4 + 0.5) - 1]
    ) + 1 / ordered[-1]
    theta = theta[theta != 0]  # ties can put a point of the grid there, which says nothing
    shape = np.log1p(-theta[:, None] * ordered).mean(axis=1)
    log_likelihood = k * (np.log(-theta / shape) - shape - 1)
    weights = np.exp(log_likelihood - log_likelihood.max())
    best = float(theta @ weights / weights.sum())
    return float(np.log1p(-best * ordered).mean())


def fit_tail(costs: Floats, wanted: int, most: float | None) -> FittedTail | None:
    """Tail above the `wanted`-th largest cost but one, or above the least positive one.

    Its shape is the upper end of the fitted one (standard error `(1 + xi) / sqrt(k)`, Smith, 1987);
    its scale keeps the excesses' median. None where fewer than `FEWEST` costs exceed the threshold.
    """
    positive = np.sort(costs[costs > 0])[::-1]
    k = min(len(positive) - 1, wanted)
    if k < FEWEST:
        return None
    threshold = float(positive[k])
    excesses = positive[:k] - threshold
    excesses = excesses[excesses > 0]
    k = len(excesses)
    if k < FEWEST:
        return None
    shape = (k * fit_shape(excesses) + _PRIOR_WEIGHT * _PRIOR_SHAPE) / (k + _PRIOR_WEIGHT)
    shape += float(norm.ppf(_SHAPE_CONFIDENCE)) * max(0.0, 1 + shape) / math.sqrt(k)
    if not math.isfinite(shape):
        return None
    shape = shape if abs(shape) > 1e-6 else 1e-6  # the exponential, by its neighbour
    shape = shape if abs(shape - 1) > 1e-6 else 1 + 1e-6
    scale = float(np.median(excesses)) * shape / (2**shape - 1)
    return FittedTail(threshold, shape, scale, math.inf if most is None else max(most, threshold))


def cvar_under(fitted: FittedTail, costs: Floats, weights: Floats, mass: float) -> float:
    """Mean of the worst `mass` of weighted costs [n] whose largest follow the fitted tail.

    `mass` is in the unit of the weights; costs that it reaches beyond are taken as they are.
    """
    inside = costs > fitted.threshold
    above = float(weights[inside].sum())
    top = fitted.mean_of_top(min(1.0, mass / above))
    if mass <= above or math.isinf(top):
        return top
    order = np.argsort(-costs[~inside], kind="stable")
    left = np.array([mass - above])
    rest = _mean_of_worst(costs[~inside][order][None], weights[~inside][order][None], left)[0]
    return float((top * above + rest * (mass - above)) / mass)


def extrapolated_ends(
    sample: TailSample, confidence: float, most: float | None
) -> tuple[float, float] | None:
    """Ends of CVaR's interval under the fitted tail; 0 and infinity where it may have no mean.

    A replicate's answers above the threshold are drawn from the fitted tail, those below are the
    sample's own. None where there is too little to fit.
    """
    costs, prompt, level = sample.costs, sample.prompt, sample.level
    n, M = len(costs), sample.draws.shape[1]
    fitted = fit_tail(costs, max(math.ceil(2 * (1 - level) * n), 30), most)
    if fitted is None:
        return None
    truth = cvar_under(fitted, costs, np.ones(n), (1 - level) * n)
    if math.isinf(truth):
        return 0.0, math.inf
    draws = sample.draws[:_REPLICATES]
    mass = (1 - level) * (draws @ np.bincount(prompt, minlength=M))  # [R]
    inside = costs > fitted.threshold
    drawn = draws @ np.bincount(prompt[inside], minlength=M)  # [R] answers in the tail
    most_drawn = max(1, int(drawn.max()))
    exceeded = 1.0 - np.random.default_rng(0).random((len(draws), most_drawn))  # in (0, 1]
    exceeded[np.arange(most_drawn)[None] >= drawn[:, None]] = 1.0
    exceeded.sort(axis=1)
    in_tail = np.minimum(mass, drawn)
    top = _mean_of_worst(fitted.quantile(exceeded), np.ones_like(exceeded), in_tail)
    body = np.flatnonzero(~inside & (costs > 0))
    body = body[np.argsort(-costs[body], kind="stable")]
    rest = _mean_of_worst(costs[body][None], draws[:, prompt[body]], mass - in_tail)
    ratios = (top * in_tail + rest * (mass - in_tail)) / (mass * truth)
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    return sample.value / float(high), (sample.value / float(low) if low > 0 else math.inf)


def _mean_of_worst(ordered: Floats, weights: Floats, mass: Floats) -> Floats:
    """Mean over the first `mass` [R] of weighted costs [R or 1, k], worst first; 0 beyond."""
    before = np.cumsum(weights, axis=1) - weights
    taken = np.clip(mass[:, None] - before, 0, weights)
    sums: Floats = (taken * ordered).sum(axis=1)
    return np.divide(sums, mass, out=np.zeros_like(sums), where=mass > 0)
