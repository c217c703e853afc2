"""Summaries of scored answers with intervals by a bootstrap clustered on prompts.

Answers to one prompt are alike, so that prompts, not answers, are drawn with replacement
(Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8). Intervals are
percentile intervals but for CVaR (`tail_intervals`) and rare rates (`metrics.rare_rate_interval`).

Shapes: n answers, M prompts (of answers pooled over trainings: M clusters), R replicates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from riskalign.errors import InputError
from riskalign.evaluation.bounds import cvar_bounds
from riskalign.evaluation.extrapolation import extrapolated_ends
from riskalign.evaluation.metrics import (
    ENOUGH_PROMPTS,
    Floats,
    Interval,
    ScoredAnswer,
    rare_rate_interval,
    tail,
)
from riskalign.evaluation.resampling import Bootstrap
from riskalign.evaluation.tail_intervals import (
    TailSample,
    apart,
    cvar_difference,
    cvar_interval,
    tail_sample,
)

TAIL_LEVELS = (0.9, 0.95, 0.99)
#: Every key of a summary, in the order of a table.
METRICS = (
    "reward",
    "cost",
    "unsafe_rate",
    *(f"var_{level}" for level in TAIL_LEVELS),
    *(f"cvar_{level}" for level in TAIL_LEVELS),
    "worst_of_k",
    "kl",
    "srr",
    "length",
)
_MEANS = ("reward", "cost", "kl", "srr", "length")
_DISTANCES = ("kl", "srr")
#: Bounds the weights held at once to a few tens of megabytes.
_ENTRIES_AT_ONCE = 2_000_000


class _Sample:
    """Scored answers as arrays, answers grouped by what is drawn, in the order of `drawn`.

    `clusters` tells what a prompt's answers are drawn with.
    """

    def __init__(
        self, scored: Sequence[ScoredAnswer], drawn: Sequence[str], clusters: Mapping[str, str]
    ) -> None:
        index = {name: i for i, name in enumerate(drawn)}
        M = len(drawn)
        self.prompt = np.array([index[clusters[s.prompt_id]] for s in scored])  # [n]
        self.costs = np.array([s.cost for s in scored], dtype=np.float64)  # [n]
        self.sizes = np.bincount(self.prompt, minlength=M).astype(np.float64)  # [M]
        unsafe = np.bincount(self.prompt[self.costs > 0], minlength=M)
        self.unsafe = unsafe.astype(np.float64)  # [M]
        worst: dict[str, float] = {}
        for s in scored:
            worst[s.prompt_id] = max(s.cost, worst.get(s.prompt_id, -math.inf))
        owner = [index[clusters[prompt_id]] for prompt_id in worst]
        self.worst = np.bincount(owner, weights=list(worst.values()), minlength=M)  # [M]
        self.prompts = np.bincount(owner, minlength=M).astype(np.float64)  # [M]
        self.means: dict[str, tuple[Floats, Floats]] = {}  # sums and numbers of values, [M] each
        for name in _MEANS:
            values = np.array([getattr(s, name) for s in scored], dtype=np.float64)
            known = ~np.isnan(values)
            if known.any():
                of = self.prompt[known]
                sums, numbers = np.zeros(M), np.zeros(M)
                np.add.at(sums, of, values[known])
                np.add.at(numbers, of, 1.0)
                self.means[name] = sums, numbers

    def statistics(self, draws: Floats) -> dict[str, Floats]:
        """Each metric [R] where prompt i is taken draws[:, i] times.  draws [R, M]."""
        answers = draws @ self.sizes
        with np.errstate(invalid="ignore"):  # a draw may hold none of the prompts measured
            result = {
                name: (draws @ sums) / (draws @ numbers)
                for name, (sums, numbers) in self.means.items()
            }
        result["unsafe_rate"] = draws @ self.unsafe / answers
        result["worst_of_k"] = (draws @ self.worst) / (draws @ self.prompts)
        rows = max(1, _ENTRIES_AT_ONCE // len(self.costs))
        parts = [
            tail(self.costs, draws[i : i + rows][:, self.prompt], TAIL_LEVELS)
            for i in range(0, len(draws), rows)
        ]
        for i, level in enumerate(TAIL_LEVELS):
            result[f"var_{level}"] = np.concatenate([var[i] for var, _ in parts])
            result[f"cvar_{level}"] = np.concatenate([cvar[i] for _, cvar in parts])
        return {name: result[name] for name in METRICS if name in result}


def _clusters(scored: Sequence[ScoredAnswer], clusters: Mapping[str, str] | None) -> dict[str, str]:
    """What each prompt's answers are drawn with, by prompt, in order; values are checked."""
    ids = dict.fromkeys(s.prompt_id for s in scored)
    of = {prompt_id: prompt_id if clusters is None else clusters[prompt_id] for prompt_id in ids}
    n = len(set(of.values()))
    if n < 2:
        raise InputError(
            f"answers to {n} prompt(s) were given: intervals are drawn over prompts and need at "
            "least 2"
        )
    for s in scored:
        for name in _MEANS:
            value = getattr(s, name)
            if not (math.isfinite(value) or (math.isnan(value) and name in _DISTANCES)):
                raise InputError(f"prompt {s.prompt_id!r}: {name} is {value}")
        if s.cost < 0:
            raise InputError(f"prompt {s.prompt_id!r}: cost is {s.cost}; a cost is 0 or more")
    return of


class _Measured:
    """A sample with its values, its replicates and the interval of each metric."""

    def __init__(
        self,
        scored: Sequence[ScoredAnswer],
        drawn: Sequence[str],
        clusters: Mapping[str, str],
        draws: Floats,
        bootstrap: Bootstrap,
        severities: Sequence[float] | None,
        max_cost: float | None,
    ) -> None:
        confidence = bootstrap.confidence
        sample = _Sample(scored, drawn, clusters)
        once = sample.statistics(np.ones((1, len(drawn))))
        self.values = {name: float(value[0]) for name, value in once.items()}
        self.many = sample.statistics(draws)
        self.intervals = {
            name: bootstrap.ends(value, self.many[name]) for name, value in self.values.items()
        }
        exact = rare_rate_interval(sample.unsafe, sample.sizes, confidence)
        self.exact_rate = exact is not None
        # An exact rate may also be that of rare *safe* answers, of which CVaR does not rest.
        self.rare = self.exact_rate and (sample.unsafe > 0).sum() < ENOUGH_PROMPTS
        if exact is not None:
            self.intervals["unsafe_rate"] = Interval(self.values["unsafe_rate"], *exact)
        seen = sample.costs[sample.costs > 0] if severities is None else severities
        self.tails: dict[str, TailSample] = {}
        self.extended: set[str] = set()
        bounds = {}
        if max_cost is not None:
            bounds = cvar_bounds(scored, TAIL_LEVELS, max_cost, confidence, clusters)
        for level in TAIL_LEVELS:
            name = f"cvar_{level}"
            own = tail_sample(
                sample.costs,
                sample.prompt,
                sample.sizes,
                level,
                self.values[name],
                self.many[name],
            )
            self.tails[name] = own
            beyond = (
                None
                if self.rare
                else extrapolated_ends(
                    sample.costs, sample.prompt, draws, level, own.value, confidence, max_cost
                )
            )
            self.intervals[name] = cvar_interval(
                own,
                draws,
                level,
                confidence,
                rate_high=self.intervals["unsafe_rate"].high,
                severities=seen,
                max_cost=max_cost,
                bound=bounds.get(name),
                rare=self.rare,
                extrapolated=beyond,
            )
            if beyond is not None and self.intervals[name].high <= beyond[1]:
                self.extended.add(name)


def summarize(
    scored: Sequence[ScoredAnswer],
    *,
    n_boot: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    severities: Sequence[float] | None = None,
    max_cost: float | None = None,
    clusters: Mapping[str, str] | None = None,
) -> dict[str, Interval]:
    """Each of `METRICS` with its interval.

    `worst_of_k` is the mean over prompts of the worst cost among a prompt's answers; the other
    metrics weigh answers equally. `kl` and `srr` are those of the answers where they were measured
    (are not NaN), and left out where none was. Resampling cannot show what was never drawn: where
    few prompts hold an unsafe answer the unsafe rate's interval is `metrics.rare_rate_interval`,
    and where few lie in the tail CVaR's upper end follows from that rate and from `severities`,
    the costs of unsafe answers seen of any model of the comparison (this one's own by default).
    `max_cost`, the largest cost there can be, caps CVaR's interval where it is known. `clusters`
    names, by `prompt_id`, what is drawn together: where models of several trainings were asked the
    same prompt under different ids, their answers are no more independent than one model's.

    Raises InputError for fewer than 2 prompts, a cost below 0 or a value that is not finite.
    """
    bootstrap = Bootstrap(n_boot, seed, confidence)
    of = _clusters(scored, clusters)
    drawn = list(dict.fromkeys(of.values()))
    draws = np.concatenate(bootstrap.draws(len(drawn)))
    return _Measured(scored, drawn, of, draws, bootstrap, severities, max_cost).intervals


def paired_differences(
    a: Sequence[ScoredAnswer],
    b: Sequence[ScoredAnswer],
    *,
    n_boot: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    severities: Sequence[float] | None = None,
    max_cost: float | None = None,
    clusters: Mapping[str, str] | None = None,
) -> dict[str, Interval]:
    """Each of `METRICS` (measured on both sides) of b less a, on the same drawn prompts.

    Where either side's unsafe rate or CVaR rests on few prompts, the interval of their difference
    is put together from the two sides' own (Newcombe, 1998, method 10), which leaves the pairing
    out and so errs on the wide side. `severities`, `max_cost` and `clusters` as in `summarize`.

    Raises InputError where the two were not asked the same prompts, or as `summarize` does.
    """
    bootstrap = Bootstrap(n_boot, seed, confidence)
    of = _clusters(a, clusters)
    if of != _clusters(b, clusters):
        odd = sorted(set(of) ^ {s.prompt_id for s in b})
        raise InputError(
            f"paired differences need the same prompts on both sides; {len(odd)} prompt(s) are on "
            f"one side only, {odd[0]!r} first"
        )
    drawn = list(dict.fromkeys(of.values()))
    draws = np.concatenate(bootstrap.draws(len(drawn)))
    if severities is None:
        severities = [answer.cost for answer in (*a, *b) if answer.cost > 0]
    one, other = (
        _Measured(side, drawn, of, draws, bootstrap, severities, max_cost) for side in (a, b)
    )
    differences = {
        name: bootstrap.ends(
            other.values[name] - one.values[name], other.many[name] - one.many[name]
        )
        for name in one.values
        if name in other.values
    }
    if one.exact_rate or other.exact_rate:
        differences["unsafe_rate"] = apart(
            one.intervals["unsafe_rate"], other.intervals["unsafe_rate"]
        )
    for name, tail_a in one.tails.items():
        differences[name] = cvar_difference(
            tail_a,
            other.tails[name],
            one.intervals[name],
            other.intervals[name],
            draws,
            confidence,
            extended=name in one.extended | other.extended,
        )
    return differences
