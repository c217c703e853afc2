"""CVaR's interval where the worst that can happen has hardly been seen: a fitted tail.

A sample of heavy-tailed costs mostly lacks the catastrophes that its CVaR is made of, and so does
every resample of it. Here the largest costs are replaced by a generalised Pareto distribution,
the limit that exceedances of a high threshold have under broad conditions (Pickands, 1975), fitted
by Zhang & Stephens (2009) with the shape shrunk as Vehtari et al. (2024) do, and, so that the end
errs on the safe side, with a shape at the upper end of what the sample allows. The ratio of sample
CVaR to true CVaR is then simulated in that world.

Shapes: k exceedances, n answers, M prompts, R replicates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from riskalign.evaluation.metrics import Floats

#: Fewer exceedances than this tell nothing of a tail's shape.
FEWEST = 5
#: The shape is shrunk to this value as if this many exceedances had said so (Vehtari et al., 2024).
_PRIOR_SHAPE, _PRIOR_WEIGHT = 0.5, 10.0
#: Confidence of the shape's one-sided upper end.
_SHAPE_CONFIDENCE = 0.9
_REPLICATES = 1000


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
    if len(excesses) < FEWEST:
        return None
    k = len(excesses)
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
    costs: Floats,
    prompt: NDArray[np.intp],
    draws: Floats,
    level: float,
    value: float,
    confidence: float,
    most: float | None,
) -> tuple[float, float] | None:
    """Ends of CVaR's interval under the fitted tail; 0 and infinity where it may have no mean.

    costs [n] of answers to prompts prompt [n], their CVaR `value`; draws [R, M] how often each
    replicate takes each prompt, of which `_REPLICATES` are used. A replicate's answers above the
    threshold are drawn from the fitted tail, those below are the sample's own. None where there is
    too little to fit.
    """
    n, M = len(costs), draws.shape[1]
    fitted = fit_tail(costs, max(math.ceil(2 * (1 - level) * n), 30), most)
    if fitted is None:
        return None
    truth = cvar_under(fitted, costs, np.ones(n), (1 - level) * n)
    if math.isinf(truth):
        return 0.0, math.inf
    draws = draws[:_REPLICATES]
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
    return value / float(high), (value / float(low) if low > 0 else math.inf)


def _mean_of_worst(ordered: Floats, weights: Floats, mass: Floats) -> Floats:
    """Mean over the first `mass` [R] of weighted costs [R or 1, k], worst first; 0 beyond."""
    before = np.cumsum(weights, axis=1) - weights
    taken = np.clip(mass[:, None] - before, 0, weights)
    sums: Floats = (taken * ordered).sum(axis=1)
    return np.divide(sums, mass, out=np.zeros_like(sums), where=mass > 0)
