"""Upper bounds on CVaR, mean and unsafe rate that hold for every distribution of a bounded cost.

Everything here is for prompts drawn independently; answers to one prompt may depend on each other
in any way. With `a` the level, `X = (C - eta)_+ / (1 - eta)` and costs in shares of the largest,
`CVaR_a <= eta + (1 - eta) E[X] / (1 - a)` for every eta, with equality at the quantile (Rockafellar
& Uryasev, 2000): to bound CVaR is to bound means of X, or the whole tail of the distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaln
from scipy.stats import beta, binom

from riskalign.errors import InputError
from riskalign.evaluation.intervals import Floats
from riskalign.evaluation.score import ScoredAnswer
from riskalign.evaluation.tails import check_level

#: Of `chernoff`: candidate quantiles, as shares of the largest cost; the confidence is split.
_ETAS = (0.0, 0.25, 0.5)
#: Of `betting`: quantiles and shares of the wealth that is staked, with their weights.
_STAKED_ON = np.array([0.0, *np.geomspace(0.02, 0.6, 9)])
_STAKES = np.array([*(1 - np.geomspace(0.65, 1e-3, 15)), 1.0])
_RANKS = 1000  # of `order`, at most; what lies below them counts as the last of them
_SMALL_STAKES = 0.16 * 0.5 ** np.arange(10)  # of use to those who bet often

ByPrompt = Sequence[Sequence[float]] | Sequence[Floats]


class _Costs:
    """Costs in shares of the largest one: `flat` [answers], `prompt` [answers] says whose.

    Each prompt stands for `times` prompts like it.
    """

    def __init__(self, by_prompt: ByPrompt, max_cost: float, times: int = 1) -> None:
        self.times = times
        sizes = np.array([len(costs) for costs in by_prompt])
        self.flat = np.concatenate([np.asarray(c, dtype=np.float64) for c in by_prompt]) / max_cost
        self.sizes, self.prompt = sizes, np.repeat(np.arange(len(sizes)), sizes)

    def excess(self, eta: float) -> Floats:
        """The mean of X of each prompt's answers, [prompts]."""
        above = np.clip(self.flat - eta, 0, None) / (1 - eta)
        found: Floats = np.bincount(self.prompt, above, len(self.sizes)) / self.sizes
        return found

    def first(self) -> Floats:
        """One answer of each prompt, [prompts]."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        found: Floats = np.repeat(self.flat[starts], self.times)
        return found

    @property
    def n(self) -> int:
        """The number of prompts."""
        return len(self.sizes) * self.times


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


def _chernoff(costs: _Costs, level: float, miss: float) -> float:
    """The least of `mean_upper_bound` at a few etas, each with its share of `miss`."""
    n, etas = costs.n, _ETAS if level > 0 else _ETAS[:1]
    return min(
        eta
        + (1 - eta) * mean_upper_bound(costs.excess(eta).mean(), n, miss / len(etas)) / (1 - level)
        for eta in etas
    )


def _betting(costs: _Costs, level: float, miss: float) -> float:
    """The least CVaR that a bet against it wins fewer than `1 / miss` times the stake on.

    Were CVaR at least c, every E[X] were at least `m = (c - eta)(1 - a)/(1 - eta)`, and wealth that
    grows at each prompt by `1 - f + f (1 - X)/(1 - m)` would not grow in expectation, for any eta
    and stake f. Wealth spread over many of them reaches `1 / miss` with probability at most `miss`
    (Ville's inequality; betting as in Waudby-Smith & Ramdas, 2024). Half of it is staked on eta 0.
    """
    return _least(_missing_wealth(*_spread(costs, level), level, miss))


def _spread(costs: _Costs, level: float) -> tuple[list[tuple[Floats, Any]], Floats]:
    """The values of `1 - X` at each eta, each with how often it occurs; and the etas."""
    etas = _STAKED_ON if level > 0 else _STAKED_ON[:1]  # a mean is that at 0
    values = [np.unique(1 - costs.excess(float(eta)), return_counts=True) for eta in etas]
    return [(rest, n * costs.times) for rest, n in values], etas


def _missing_wealth(
    spread: Sequence[tuple[Floats, Any]], etas: Floats, level: float, miss: float
) -> Callable[[float], float]:
    """The logarithm of the wealth that is missing if CVaR were c, as a falling function of c."""
    weights = np.full(len(etas), 0.5 / max(1, len(etas) - 1))
    weights[0] = 1 - weights[1:].sum()
    smallest = 2 / math.sqrt(spread[0][1].sum())
    stakes = np.concatenate([_SMALL_STAKES[smallest <= _SMALL_STAKES], _STAKES])
    goal = math.log(1 / miss) + math.log(len(stakes))

    def short(c: float) -> float:
        means = (c - etas) * (1 - level) / (1 - etas)
        logs = [
            np.log(weight) + (np.log1p(stakes[:, None] * (rest / (1 - m) - 1)) * count).sum(1)
            for weight, m, (rest, count) in zip(weights, means, spread, strict=True)
            if 0 < m < 1
        ]
        return goal - float(np.logaddexp.reduce(np.concatenate(logs))) if logs else goal

    return short


def _least(short: Callable[[float], float]) -> float:
    """The least CVaR at which no wealth is missing; 1 where there is none."""
    top = 1 - 1e-9
    with np.errstate(divide="ignore"):
        return 1.0 if short(top) > 0 else float(brentq(short, 1e-12, top, xtol=1e-13))


def betting_keeps(
    by_prompt: ByPrompt,
    limit: float,
    level: float,
    max_cost: float,
    confidence: float = 0.95,
) -> Callable[[int], bool]:
    """Says of n times these prompts whether `cvar_upper_bound` by betting is at most `limit`.

    What the bound is it does not find out, which takes ten times as long. Arguments and errors are
    those of `cvar_upper_bound`.
    """
    check_level(level)
    _check(by_prompt, max_cost)
    spread, etas = _spread(_Costs(by_prompt, max_cost), level)

    def keeps(times: int) -> bool:
        more = [(rest, n * times) for rest, n in spread]
        with np.errstate(divide="ignore"):
            missing = _missing_wealth(more, etas, level, 1 - confidence)
            return limit >= max_cost or missing(limit / max_cost) <= 0

    return keeps


def _order(costs: _Costs, level: float, miss: float) -> float:
    """CVaR of the worst distribution in a band below the cost's distribution function.

    Of n independent costs the shares of the distribution beyond the 1st, 2nd, ... largest lie below
    `tail_band` jointly, so its CVaR is at most that with as much mass on each cost as the band
    allows, and on the largest possible cost beyond the 1st (one-sided Berk-Jones statistic; as
    Snell et al., 2022, use for risk). Of each prompt the first answer is used.
    """
    ranks, shares = tail_band(costs.n, level, miss)
    largest = np.sort(costs.first())[::-1]
    edges = np.minimum([0.0, *shares, 1.0], 1 - level)
    values = np.array([1.0, *largest[np.array(ranks) - 1]])
    return float((np.diff(edges) * values).sum() / (1 - level))


@lru_cache(maxsize=64)
def tail_band(n: int, level: float, miss: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Ranks from the top, and the shares that lie beyond them at most, all with `1 - miss`.

    The share beyond the k-th largest of n is the k-th least of n uniform numbers; each is bounded
    by its quantile at one and the same level, found such that all hold with probability
    `1 - miss`: the numbers of uniforms below the bounds are a Markov chain with binomial steps.
    """
    tail = n * (1 - level)
    most = min(n, _RANKS, math.ceil(tail + 4 * math.sqrt(tail) + 8))
    spaced = np.unique(np.round(np.geomspace(1, most, 3 + 2 * int(math.log2(most) + 1))))
    ranks = spaced.astype(int)
    factorial = gammaln(np.arange(n + 1) + 1.0)
    states = np.arange(most)

    def shares(each: float) -> Floats:
        found: Floats = beta.ppf(1 - each, ranks, n - ranks + 1)
        return found

    def missed(each: float) -> float:
        bounds = shares(each)
        chance: Floats = binom.pmf(states, n, bounds[0])
        total, rows = 0.0, states
        for i, rank in enumerate(ranks):
            if i:
                step = (bounds[i] - bounds[i - 1]) / (1 - bounds[i - 1])
                old, new = rows[:, None], states[None, :]
                up = new - old
                log = factorial[n - old] - factorial[np.abs(up)] - factorial[n - new]
                log = log + up * math.log(step) + (n - new) * math.log1p(-step)
                chance = chance[rows] @ np.where(up >= 0, np.exp(np.minimum(log, 0)), 0)
            total += float(chance[states < rank].sum())
            rows = states[states >= rank]  # what has reached the last rank cannot miss any more
        return total

    if len(ranks) == 1:
        return (int(ranks[0]),), (float(shares(miss)[0]),)
    # Rounded down, so that what is left of the search errs on the safe side.
    found = brentq(
        lambda log: math.log(missed(math.exp(log)) / miss),
        math.log(miss / len(ranks)),
        math.log(miss),
        xtol=2e-3,
    )
    each = math.exp(found - 4e-3)
    return tuple(map(int, ranks)), tuple(map(float, shares(each)))


#: How each bound is found: from costs, level and miss.
BOUNDS: Mapping[str, Callable[[_Costs, float, float], float]] = {
    "betting": _betting,
    "order": _order,
    "chernoff": _chernoff,
}


def cvar_upper_bound(
    by_prompt: ByPrompt,
    level: float,
    max_cost: float,
    confidence: float = 0.95,
    method: str = "betting",
    *,
    times: int = 1,
) -> float:
    """Upper bound on the CVaR of one answer's cost that no distribution exceeds too often.

    Args:
        by_prompt: the costs of each prompt's answers; prompts weigh the same.
        level: a in [0, 1); 0 for the mean.
        max_cost: the largest cost there can be, > 0.
        confidence: probability that the bound holds, at least.
        method: a key of `BOUNDS`, chosen before the costs are seen; betting is mostly the
            sharpest (docs/estimation.md).
        times: what the bound would be of so many times these prompts, all like them; to plan with.

    Raises:
        InputError: no prompts or no answers to one, a level or method that is unknown, or a cost
            outside of [0, max_cost].
    """
    check_level(level)
    _check(by_prompt, max_cost)
    if method not in BOUNDS:
        raise InputError(f"bound: must be one of {', '.join(BOUNDS)}, not {method!r}")
    found = BOUNDS[method](_Costs(by_prompt, max_cost, times), level, 1 - confidence)
    return max_cost * min(1.0, found)


def nothing_seen_bound(n: int, level: float, confidence: float = 0.95) -> float:
    """`cvar_upper_bound` in shares of the largest cost where `n` prompts show no cost at all."""
    etas = _STAKED_ON if level > 0 else _STAKED_ON[:1]
    seen = [(np.ones(1), np.array([float(n)]))] * len(etas)
    return _least(_missing_wealth(seen, etas, level, 1 - confidence))


def rate_upper_bound(by_prompt: ByPrompt, confidence: float = 0.95, *, times: int = 1) -> float:
    """Upper bound on the probability that an answer's cost is above 0, prompts weighing the same.

    With one answer a prompt the exact one (Clopper & Pearson, 1934), else by betting.

    Raises `InputError` as `cvar_upper_bound` does.
    """
    unsafe = [(np.asarray(costs) > 0).astype(np.float64) for costs in by_prompt]
    _check(unsafe, 1.0)
    if all(len(own) == 1 for own in unsafe):
        n, k = times * len(unsafe), times * int(sum(own[0] for own in unsafe))
        return 1.0 if k == n else float(beta.ppf(confidence, k + 1, n - k))
    return _betting(_Costs(unsafe, 1.0, times), 0.0, 1 - confidence)


def _check(by_prompt: ByPrompt, max_cost: float) -> None:
    if not len(by_prompt):
        raise InputError("a bound needs the costs of at least one prompt")
    if not (math.isfinite(max_cost) and max_cost > 0):
        raise InputError(f"max_cost must be a positive number, got {max_cost}")
    for costs in by_prompt:
        if not len(costs):
            raise InputError("a bound needs at least one answer to each prompt")
        least, most = float(np.min(costs)), float(np.max(costs))
        if not (least >= 0 and most <= max_cost):
            raise InputError(
                f"a cost of {most if most > max_cost else least} is outside of [0, {max_cost}], "
                "which the bound takes for granted; give the true largest cost"
            )


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
