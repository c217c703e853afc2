"""Exact statistics of a sample of costs, and the exact interval of a rare rate.

The tail measures are those of `riskalign.risk`, taken under the empirical distribution: CVaR at
level a is the mean of the worst 1 - a of probability mass with the atom at the quantile split
exactly (Rockafellar & Uryasev, "Optimization of conditional value-at-risk", 2000); VaR is the
lower quantile at which that tail starts.

Shapes: n answers, M prompts, R replicates (rows of weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from riskalign.errors import InputError

Floats = NDArray[np.float64]

#: Relative slack on probability mass: 1 - 0.9 is not 0.1 in binary, and VaR is discontinuous there.
_MASS_SLACK = 1e-9
#: From this many informative prompts on, a rate's clustering is estimated from the data alone.
ENOUGH_PROMPTS = 10


@dataclass(frozen=True)
class Interval:
    """A measured value with the ends of its confidence interval, in the metric's own unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer with what a world's programs and the two models say of it.

    `kl` and `srr` are in nats, summed over the response tokens, against the start model, and NaN
    where they were not measured; `length` counts response tokens, the end-of-sequence token
    included.
    """

    prompt_id: str
    text: str
    reward: float
    cost: float
    kl: float
    srr: float
    length: int


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


def empirical_var(costs: Sequence[float] | Floats, level: float) -> float:
    """Smallest sampled cost c with P(cost > c) <= 1 - level.  costs [n], not empty."""
    sample = np.asarray(costs, dtype=np.float64)
    return float(tail(sample, np.ones((1, sample.size)), [level])[0][0, 0])


def empirical_cvar(costs: Sequence[float] | Floats, level: float) -> float:
    """Mean of the worst 1 - level of the sample's mass, splitting the last atom.  costs [n]."""
    sample = np.asarray(costs, dtype=np.float64)
    return float(tail(sample, np.ones((1, sample.size)), [level])[1][0, 0])


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
