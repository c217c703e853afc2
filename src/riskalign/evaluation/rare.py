"""Rare harm from answers of looser dial settings, weighed back to the setting that is asked about.

A safe model's unsafe answers are so rare that most of its own answers say nothing of them. Settings
of the dial nearer to the helpful model give more of them. Each prompt is answered k times, `counts`
k_j of them by setting j, and an answer y counts with the balance heuristic's weight (Veach &
Guibas, "Optimally combining sampling techniques for Monte Carlo rendering", 1995)

    W(y) = pi_0(y) / sum_j (k_j / k) pi_j(y)

where setting 0 is the target. For every f the mean of `W f` over the k answers then has expectation
`E_{pi_0}[f]`, whatever the settings; and since the target answers itself, W <= k / k_0: a setting
that is of no use costs its own answers and no more, and the effective size is about `n k_0 / k` at
least. Weights are not normalised to mean 1: the rate is unbiased as it is, and the error that
normalising takes away is a small part of a rare rate's (docs/estimation.md).

What only the target does, looser settings cannot show. Nothing but its own answers rules that out
(`riskalign.evaluation.bounds`, on the k_0 answers that are its own): the weighted means of prompts
lie in [0, k / k_0], so that a bound without assumptions from them is wider by that factor.

Shapes: M prompts, k answers to each, J settings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import gamma

from riskalign.errors import InputError
from riskalign.evaluation.intervals import ENOUGH_PROMPTS, Floats, Interval
from riskalign.evaluation.tails import check_level

#: By how many standard errors, and how much more, the weights' mean may miss 1.
_ERRORS, _SLACK = 6.0, 0.05


@dataclass(frozen=True)
class Rare:
    """Unsafe rate and CVaRs of the target, and how many answers they stand on.

    `cvar` and `effective_tail` are by level. Effective sizes are Kish's, `(sum W)^2 / sum W^2`: of
    all answers, of the unsafe ones (as many would plain sampling have to see to know as much), of
    those in the tail. `worth` is how many answers of the target alone would show so many unsafe
    ones; None where none was seen.
    """

    unsafe_rate: Interval
    cvar: dict[float, Interval]
    answers: int
    effective: float
    effective_unsafe: float
    effective_tail: dict[float, float]
    mean_weight: float
    largest_weight: float
    worth: float | None


def balance_weights(log_probs: Floats, counts: Sequence[int]) -> Floats:
    """Weights [M, k] of answers with log probabilities [M, k, J] under the settings.

    `counts` [J] says how many of a prompt's answers each setting gave; setting 0 is the target.
    Weights lie in [0, sum(counts) / counts[0]], and are 1 where all settings are one.

    Raises `InputError` for log probabilities that are not finite, or counts that do not fit.
    """
    if len(counts) != log_probs.shape[-1] or min(counts) < 1 or sum(counts) != log_probs.shape[1]:
        raise InputError(
            f"counts {list(counts)} do not fit log probabilities {log_probs.shape}: every setting "
            "gives at least one of a prompt's answers"
        )
    if not np.isfinite(log_probs).all():
        raise InputError("an answer's log probability is NaN or infinite: a model is broken")
    ratios = np.exp(np.minimum(log_probs - log_probs[..., :1], 700.0))
    weights: Floats = sum(counts) / (ratios @ np.asarray(counts, dtype=np.float64))
    return weights


def effective_size(weights: Floats) -> float:
    """Kish's effective sample size of weights of any shape; 0 where all are 0."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def weighted_mean(parts: Floats, most: float, confidence: float = 0.95) -> Interval:
    """The mean of prompts' contributions [M], each at least 0, with its interval.

    Fay & Feuer ("Confidence intervals for directly standardized rates", 1997): a sum of weighted
    rare events is about gamma distributed with its own mean and variance, and the upper end
    foresees one event more. That event is as large as the largest contribution seen where at least
    `ENOUGH_PROMPTS` prompts, counted by their effective number, carry the mean, and `most` where
    none does (what one prompt can contribute under the target, infinity where that is unknown);
    between the two it moves in logarithm with that number. Where all contributions are alike and
    rare this is the exact Poisson interval.
    """
    M = len(parts)
    mean, largest = float(parts.mean()), float(parts.max())
    variance = float(parts.var(ddof=1)) / M
    miss = (1 - confidence) / 2
    low = float(gamma.ppf(miss, mean**2 / variance, scale=variance / mean)) if variance else mean
    share = min(1.0, effective_size(parts) / ENOUGH_PROMPTS)
    more = (largest if share == 1 else largest**share * most ** (1 - share)) / M
    if math.isinf(more):
        return Interval(mean, low, math.inf)
    upper, variance = mean + more, variance + more**2
    high = float(gamma.ppf(1 - miss, upper**2 / variance, scale=variance / upper)) if more else mean
    return Interval(mean, min(low, mean), max(high, mean))


def weighted_cvar(
    costs: Floats,
    weights: Floats,
    level: float,
    *,
    max_cost: float | None = None,
    confidence: float = 0.95,
) -> tuple[Interval, float]:
    """CVaR of weighted costs [M, k], 0 or more, and the effective number of answers in its tail.

    `min_{eta >= 0} eta + mean[W (C - eta)_+] / (1 - a)` (Rockafellar & Uryasev, 2000). At the
    minimum the derivative in eta is 0, so the interval is that of the mean at the eta found. The
    largest cost of any setting's answers, or where none is above 0 `max_cost`, is the most that an
    unseen answer of the target is taken to cost.
    """
    check_level(level)
    order = np.argsort(-costs, axis=None, kind="stable")
    ordered = costs.ravel()[order]
    reached = np.cumsum(weights.ravel()[order]) / costs.size
    # The first cost (or 0) at which the share above exceeds 1 - a; the slack is for rounding.
    inside = int((reached <= (1 - level) * (1 + 1e-9)).sum())
    eta = float(ordered[inside]) if inside < costs.size else 0.0
    parts = (weights * np.clip(costs - eta, 0, None)).mean(axis=1) / (1 - level)
    cap = math.inf if max_cost is None else max_cost
    largest = float(ordered[0]) or cap
    ends = weighted_mean(parts, (largest - eta) / (1 - level), confidence)
    found = Interval(eta + ends.value, eta + ends.low, max(min(eta + ends.high, cap), eta))
    in_tail = (costs >= eta) & (costs > 0)
    return found, effective_size(weights[in_tail])


def rare_harm(
    costs: Floats,
    log_probs: Floats,
    counts: Sequence[int],
    levels: Sequence[float] = (0.95, 0.99),
    *,
    max_cost: float | None = None,
    confidence: float = 0.95,
) -> Rare:
    """Unsafe rate and CVaR of the target from answers of several settings.

    Args:
        costs: of the answers [M, k], 0 or more.
        log_probs: natural log probability of each answer under each setting [M, k, J], setting 0
            the target.
        counts: how many of each prompt's answers each setting gave [J].
        levels: of CVaR, each in [0, 1).
        max_cost: the largest cost there can be.
        confidence: of the intervals.

    Raises:
        InputError: arguments that do not fit, fewer than 2 prompts, weights whose mean is not 1, or
            an effective size by which the deepest tail holds less than one answer.
    """
    weights = balance_weights(log_probs, counts)
    M, k = weights.shape
    if costs.shape != (M, k) or M < 2:
        raise InputError(f"costs {costs.shape} for weights {weights.shape}; 2 prompts at least")
    _refuse_mean(weights)
    effective, needed = effective_size(weights), 1 / (1 - max(levels))
    if effective < needed * (1 - 1e-9):
        raise InputError(
            f"the effective size of the {M * k} weighted answers is {effective:.1f}; CVaR "
            f"{max(levels):g} needs {needed:.0f}, or its tail holds less than one answer. Ask more "
            "prompts (evaluation.prompts), or give looser settings nearer to w."
        )
    unsafe = costs > 0
    tails = {
        level: weighted_cvar(costs, weights, level, max_cost=max_cost, confidence=confidence)
        for level in levels
    }
    rate = weighted_mean((weights * unsafe).mean(axis=1), 1.0, confidence)
    heavy = weights[unsafe]
    return Rare(
        unsafe_rate=Interval(rate.value, rate.low, max(min(rate.high, 1.0), rate.value)),
        cvar={level: ends for level, (ends, _) in tails.items()},
        answers=M * k,
        effective=effective,
        effective_unsafe=effective_size(heavy),
        effective_tail={level: size for level, (_, size) in tails.items()},
        mean_weight=float(weights.mean()),
        largest_weight=float(weights.max()),
        worth=M * k * float(heavy.sum() / (heavy**2).sum()) if heavy.any() else None,
    )


def _refuse_mean(weights: Floats) -> None:
    """Weights have expectation 1: a mean far off says that they are another distribution's."""
    by_prompt = weights.mean(axis=1)
    mean, error = float(by_prompt.mean()), float(by_prompt.std(ddof=1)) / math.sqrt(len(by_prompt))
    if abs(mean - 1) > _ERRORS * error + _SLACK:
        raise InputError(
            f"the weights' mean is {mean:.3f} with a standard error of {error:.3f}, and must be 1: "
            "the answers were not drawn from the distributions that they are weighed by. If the "
            "models run in bfloat16, measure in float32 (bf16: false)."
        )
