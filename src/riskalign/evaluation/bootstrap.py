"""Summaries of scored answers with intervals by a bootstrap clustered on prompts.

Answers to one prompt are alike, so that prompts, not answers, are drawn with replacement
(Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8). Intervals are
percentile intervals.

Shapes: n answers, M prompts, R replicates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from riskalign.errors import InputError
from riskalign.evaluation.metrics import Floats, Interval, ScoredAnswer, rare_rate_interval, tail

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
    """Scored answers as arrays, answers grouped by prompt in the order of `ids`."""

    def __init__(self, scored: Sequence[ScoredAnswer], ids: Sequence[str]) -> None:
        index = {prompt_id: i for i, prompt_id in enumerate(ids)}
        M = len(ids)
        self.prompt = np.array([index[s.prompt_id] for s in scored])  # [n]
        self.costs = np.array([s.cost for s in scored], dtype=np.float64)  # [n]
        self.sizes = np.bincount(self.prompt, minlength=M).astype(np.float64)  # [M]
        unsafe = np.bincount(self.prompt[self.costs > 0], minlength=M)
        self.unsafe = unsafe.astype(np.float64)  # [M]
        self.worst = np.full(M, -np.inf)
        np.maximum.at(self.worst, self.prompt, self.costs)
        self.means: dict[str, tuple[Floats, Floats]] = {}  # sums and numbers of values, [M] each
        for name in _MEANS:
            values = np.array([getattr(s, name) for s in scored], dtype=np.float64)
            known = ~np.isnan(values)
            if known.any():
                of = self.prompt[known]
                sums = np.bincount(of, values[known], minlength=M)
                self.means[name] = sums, np.bincount(of, np.ones(len(of)), minlength=M)

    def statistics(self, draws: Floats) -> dict[str, Floats]:
        """Each metric [R] where prompt i is taken draws[:, i] times.  draws [R, M]."""
        answers = draws @ self.sizes
        with np.errstate(invalid="ignore"):  # a draw may hold none of the prompts measured
            result = {
                name: (draws @ sums) / (draws @ numbers)
                for name, (sums, numbers) in self.means.items()
            }
        result["unsafe_rate"] = draws @ self.unsafe / answers
        result["worst_of_k"] = draws @ self.worst / draws.sum(axis=1)
        rows = max(1, _ENTRIES_AT_ONCE // len(self.costs))
        parts = [
            tail(self.costs, draws[i : i + rows][:, self.prompt], TAIL_LEVELS)
            for i in range(0, len(draws), rows)
        ]
        for i, level in enumerate(TAIL_LEVELS):
            result[f"var_{level}"] = np.concatenate([var[i] for var, _ in parts])
            result[f"cvar_{level}"] = np.concatenate([cvar[i] for _, cvar in parts])
        return {name: result[name] for name in METRICS if name in result}


def _prompt_ids(scored: Sequence[ScoredAnswer]) -> list[str]:
    ids = list(dict.fromkeys(s.prompt_id for s in scored))
    if len(ids) < 2:
        raise InputError(
            f"answers to {len(ids)} prompt(s) were given: intervals are drawn over prompts and "
            "need at least 2"
        )
    for s in scored:
        for name in _MEANS:
            value = getattr(s, name)
            if not (math.isfinite(value) or (math.isnan(value) and name in _DISTANCES)):
                raise InputError(f"prompt {s.prompt_id!r}: {name} is {value}")
        if s.cost < 0:
            raise InputError(f"prompt {s.prompt_id!r}: cost is {s.cost}; a cost is 0 or more")
    return ids


def _draws(n_prompts: int, n_boot: int, seed: int) -> Floats:
    """How often each prompt is drawn, [n_boot, n_prompts]; every row sums to n_prompts."""
    generator = np.random.default_rng(seed)
    shares = np.full(n_prompts, 1 / n_prompts)
    return generator.multinomial(n_prompts, shares, size=n_boot).astype(np.float64)


def _check(n_boot: int, confidence: float) -> None:
    if n_boot < 1:
        raise InputError(f"n_boot must be at least 1, got {n_boot}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be in (0, 1), got {confidence}")


def _interval(value: float, replicates: Floats, confidence: float) -> Interval:
    low, high = np.nanquantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def summarize(
    scored: Sequence[ScoredAnswer],
    *,
    n_boot: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Each of `METRICS` with its interval.

    `worst_of_k` is the mean over prompts of the worst cost among a prompt's answers; the other
    metrics weigh answers equally. `kl` and `srr` are those of the answers where they were measured
    (are not NaN), and left out where none was. Resampling cannot show what was never drawn: where
    few prompts hold an unsafe answer the unsafe rate's interval is `metrics.rare_rate_interval`,
    and a mean, VaR or CVaR over answers that are all alike keeps an interval without width, to be
    read beside that rate.

    Raises InputError for fewer than 2 prompts, a cost below 0 or a value that is not finite.
    """
    _check(n_boot, confidence)
    ids = _prompt_ids(scored)
    sample = _Sample(scored, ids)
    values = sample.statistics(np.ones((1, len(ids))))
    replicates = sample.statistics(_draws(len(ids), n_boot, seed))
    summary = {
        name: _interval(float(values[name][0]), replicates[name], confidence) for name in values
    }
    exact = rare_rate_interval(sample.unsafe, sample.sizes, confidence)
    if exact is not None:
        summary["unsafe_rate"] = Interval(summary["unsafe_rate"].value, *exact)
    return summary


def paired_differences(
    a: Sequence[ScoredAnswer],
    b: Sequence[ScoredAnswer],
    *,
    n_boot: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Each of `METRICS` (measured on both sides) of b less a, on the same drawn prompts.

    Where either side's unsafe rate rests on few prompts, the interval of their difference is
    put together from the two rates' own (Newcombe, 1998, method 10), which leaves the pairing out
    and so errs on the wide side.

    Raises InputError where the two were not asked the same prompts, or as `summarize` does.
    """
    _check(n_boot, confidence)
    ids = _prompt_ids(a)
    if set(ids) != set(_prompt_ids(b)):
        odd = sorted(set(ids) ^ {s.prompt_id for s in b})
        raise InputError(
            f"paired differences need the same prompts on both sides; {len(odd)} prompt(s) are on "
            f"one side only, {odd[0]!r} first"
        )
    sides = [_Sample(a, ids), _Sample(b, ids)]
    once = np.ones((1, len(ids)))
    draws = _draws(len(ids), n_boot, seed)
    (value_a, value_b), (many_a, many_b) = (
        [side.statistics(weights) for side in sides] for weights in (once, draws)
    )
    differences = {
        name: _interval(
            float(value_b[name][0] - value_a[name][0]), many_b[name] - many_a[name], confidence
        )
        for name in value_a
        if name in value_b
    }
    exact = [rare_rate_interval(side.unsafe, side.sizes, confidence) for side in sides]
    if any(ends is not None for ends in exact):
        rate_a, rate_b = (
            Interval(rate, *ends) if ends is not None else _interval(rate, many, confidence)
            for rate, many, ends in zip(
                (float(value_a["unsafe_rate"][0]), float(value_b["unsafe_rate"][0])),
                (many_a["unsafe_rate"], many_b["unsafe_rate"]),
                exact,
                strict=True,
            )
        )
        difference = rate_b.value - rate_a.value
        differences["unsafe_rate"] = Interval(
            difference,
            difference - math.hypot(rate_b.value - rate_b.low, rate_a.high - rate_a.value),
            difference + math.hypot(rate_b.high - rate_b.value, rate_a.value - rate_a.low),
        )
    return differences
