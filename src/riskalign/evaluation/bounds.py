"""Upper bounds on CVaR that hold for every distribution of a bounded cost, and sample sizes.

Everything here is for prompts drawn independently; answers to one prompt may depend on each other
in any way, since only the prompts' means enter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from riskalign.errors import InputError
from riskalign.evaluation.intervals import Floats
from riskalign.evaluation.score import ScoredAnswer
from riskalign.evaluation.tails import check_level

#: Candidate quantiles, as shares of the largest cost; the confidence is split among them.
_ETAS = (0.0, 0.25, 0.5)


def mean_upper_bound(mean: float, n: int, miss: float) -> float:
    """Upper bound of an expectation in [0, 1] from the mean of n independent values in [0, 1].

    The Chernoff-Hoeffding bound in its exact form (Hoeffding, 1963, theorem 1): the largest m with
    `n kl(mean, m) <= log(1 / miss)`, kl between two coins. It is exceeded with probability at most
    `miss`, whatever the distribution. From a mean of 0 it is `1 - miss^(1/n)`.
    """
    limit = math.log(1 / miss) / n
    if mean >= 1:
        return 1.0

    def excess(m: float) -> float:
        inside = mean * math.log(mean / m) if mean > 0 else 0.0
        return inside + (1 - mean) * math.log((1 - mean) / (1 - m)) - limit

    top = 1 - 1e-15
    return 1.0 if excess(top) < 0 else float(brentq(excess, max(mean, 1e-300), top, xtol=1e-14))


def cvar_upper_bound(
    by_prompt: Sequence[Sequence[float]] | Sequence[Floats],
    level: float,
    max_cost: float,
    confidence: float = 0.95,
) -> float:
    """Upper bound on the CVaR of one answer's cost that no distribution exceeds too often.

    `CVaR_a <= eta + E[(C - eta)_+] / (1 - a)` for every fixed eta (Rockafellar & Uryasev, 2000);
    the expectation is bounded by `mean_upper_bound` over prompts, at three values of eta chosen
    before the data are seen, each with a third of `1 - confidence`. The least of them holds.

    Args:
        by_prompt: the costs of each prompt's answers; prompts weigh the same.
        level: a in [0, 1).
        max_cost: the largest cost there can be, > 0.
        confidence: probability that the bound holds, at least.

    Raises:
        InputError: no prompts, a level out of range, or a cost outside [0, max_cost].
    """
    check_level(level)
    if not by_prompt:
        raise InputError("a bound needs the costs of at least one prompt")
    if not (math.isfinite(max_cost) and max_cost > 0):
        raise InputError(f"max_cost must be a positive number, got {max_cost}")
    flat = np.concatenate([np.asarray(costs, dtype=np.float64) for costs in by_prompt])
    if flat.size and not (flat.min() >= 0 and flat.max() <= max_cost):
        raise InputError(
            f"a cost of {flat.max() if flat.max() > max_cost else flat.min()} is outside of "
            f"[0, {max_cost}], which the bound takes for granted; give the true largest cost"
        )
    miss = (1 - confidence) / len(_ETAS)
    bounds = [max_cost]
    for eta, width in ((share * max_cost, (1 - share) * max_cost) for share in _ETAS):
        means = [np.clip(np.asarray(costs) - eta, 0, None).mean() / width for costs in by_prompt]
        upper = mean_upper_bound(float(np.mean(means)), len(means), miss)
        bounds.append(eta + width * upper / (1 - level))
    return min(bounds)


def cvar_bounds(
    scored: Sequence[ScoredAnswer],
    levels: Sequence[float],
    max_cost: float,
    confidence: float = 0.95,
    clusters: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """`cvar_upper_bound` by `cvar_a`; `clusters` says which prompts are not independent."""
    costs: dict[str, list[float]] = {}
    for answer in scored:
        cluster = answer.prompt_id if clusters is None else clusters[answer.prompt_id]
        costs.setdefault(cluster, []).append(answer.cost)
    return {
        f"cvar_{level}": cvar_upper_bound(list(costs.values()), level, max_cost, confidence)
        for level in levels
    }


@dataclass(frozen=True)
class Plan:
    """Prompts to answer once each, for CVaR at a level to a width, in shares of the largest cost.

    `to_rule_out`: if no prompt shows a cost, the distribution-free bound is at most the width.
    `to_estimate`: by the normal approximation the interval is at most that wide if answers are
    unsafe at the planned rate, in the worst case for that rate (all of the largest cost).
    """

    level: float
    width: float
    rate: float
    to_rule_out: int
    to_estimate: int


def plan(level: float, width: float, rate: float | None = None, confidence: float = 0.95) -> Plan:
    """How many prompts a CVaR needs; `width` and the answer are in shares of the largest cost.

    With unsafe rate `p <= 1 - a` CVaR is `E[C] / (1 - a)`, whose estimate from n prompts has a
    variance of at most `p (1 - p) / (n (1 - a)^2)`; above that rate CVaR can only vary through
    the other answers, and half of the tail's mass, the default rate, is taken instead.

    Raises `InputError` for numbers out of range.
    """
    check_level(level)
    tail = 1 - level
    if not 0 < width < 1:
        raise InputError(f"width must be in (0, 1), a share of the largest cost, got {width}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be in (0, 1), got {confidence}")
    planned = tail / 2 if rate is None else rate
    if not 0 < planned <= 1:
        raise InputError(f"rate must be in (0, 1], got {planned}")
    planned = min(planned, tail)
    miss = (1 - confidence) / len(_ETAS)
    # Nothing seen: the bound at eta = 0 is (1 - miss^(1/n)) / (1 - a).
    rule_out = math.log(miss) / math.log1p(-min(width * tail, 1 - 1e-12))
    z = float(norm.ppf((1 + confidence) / 2))
    estimate = (2 * z / width) ** 2 * planned * (1 - planned) / tail**2
    return Plan(level, width, planned, math.ceil(rule_out), math.ceil(estimate))
