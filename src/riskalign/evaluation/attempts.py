"""How likely an unsafe answer is within k attempts at a prompt: measured, bounded and by a model.

A prompt has a probability p of an unsafe answer, and `P(any of k) = E[1 - (1 - p)^k]` over prompts.
Up to as many answers as each prompt has it is measured. Beyond, a Beta distribution of p with mean
`m` and overdispersion `r` (`a = m (1 - r) / r`, `b = (1 - m) (1 - r) / r`; 0 where all prompts are
alike, 1 where each is always or never unsafe) gives `1 - B(a, b + k) / B(a, b)`. It is fitted to
the counts, which are then beta-binomial, by maximum likelihood (Skellam, 1948).

Shapes: M prompts, C different counts, G points of a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import betaln, expit, gammaln, logit
from scipy.stats import chi2

from riskalign.errors import InputError
from riskalign.evaluation.bounds import mean_upper_bound
from riskalign.evaluation.intervals import Floats, Interval, mean_interval
from riskalign.evaluation.score import ScoredAnswer

Integers = NDArray[np.int64]

#: Numbers of attempts in results.json.
ATTEMPTS = (1, 2, 5, 10, 100, 1000)
#: Log-odds of the overdispersion: 1e-6 counts as none, as 1 - 1e-6 does as all there can be.
_OVERDISPERSION = (-14.0, 14.0)
#: How far the log-odds of the mean are looked at to either side of the share of unsafe answers.
_MEAN = 9.0
_SIDE, _ZOOMS = 60, 3


@dataclass(frozen=True)
class Attempt:
    """The probability of at least one unsafe answer among k.

    `value`, `low` and `high` are the model's, None where there is none; `measured` is the plain
    figure, None with fewer than k answers to a prompt. It lies between `least` and `most` whatever
    the prompts are like: the one assumes that further attempts bring nothing new, the other that
    prompts are alike.
    """

    k: int
    value: float | None
    low: float | None
    high: float | None
    measured: Interval | None
    least: float
    most: float


@dataclass(frozen=True)
class Attempts:
    """A model's `rows`, one for each k, and the Beta's parameters; None and `why` without a fit."""

    mean: float | None
    overdispersion: float | None
    why: str
    rows: tuple[Attempt, ...]


def any_unsafe(mean: Any, overdispersion: Any, k: int) -> Floats:
    """`1 - B(a, b + k) / B(a, b)`, elementwise; of the overdispersion 0 the limit `1 - (1 - m)^k`.

    By hand: a mean of 1/2 and an overdispersion of 1/3 are the uniform distribution, of which two
    attempts are both safe with probability 1/3.
    """
    m, r = np.asarray(mean, dtype=np.float64), np.asarray(overdispersion, dtype=np.float64)
    size = (1 - r) / np.maximum(r, 1e-300)
    a, b = m * size, (1 - m) * size
    alike = r < expit(_OVERDISPERSION[0]) / 2  # where logarithms of the Beta function cancel
    a, b = np.where(alike, 1.0, a), np.where(alike, 1.0, b)
    apart = -np.expm1(betaln(a, b + k) - betaln(a, b))
    return np.asarray(np.where(alike, -np.expm1(k * np.log1p(-m)), apart), dtype=np.float64)


def log_likelihood(mean: Floats, overdispersion: Floats, unsafe: Integers, of: Integers) -> Floats:
    """Log-probability of each count of unsafe answers [C] at each point, [G]: [G, C].

    Up to the binomial coefficient. The products are written out, `(a)_u (b)_(n-u) / (a + b)_n` all
    times powers of r, so that they hold at 0 and 1 as well.
    """
    steps = np.arange(of.max())

    def rising(start: Floats) -> Floats:
        logs = np.log(start[:, None] + steps * overdispersion[:, None])
        return np.pad(np.cumsum(logs, axis=1), ((0, 0), (1, 0)))

    rest = 1 - overdispersion
    safe = rising((1 - mean) * rest)[:, of - unsafe]
    return np.asarray(rising(mean * rest)[:, unsafe] + safe - rising(rest)[:, of])


def fit(unsafe: Integers, of: Integers, confidence: float = 0.95) -> tuple[float, float, Floats]:
    """Mean and overdispersion of greatest likelihood, and all that are likely enough, [G, 2].

    These are the points of a grid with a likelihood ratio within chi-square's quantile (1 degree):
    the range of any function of both over them is its profile likelihood's interval.

    Raises `InputError`: one answer to each prompt, which cannot show how prompts differ, or answers
    that are all safe or all unsafe.
    """
    if why := _no_fit(unsafe, of):
        raise InputError(f"no Beta distribution can be fitted: {why}")
    cells, prompts = np.unique(np.stack([unsafe, of]), axis=1, return_counts=True)

    def likelihood(points: Floats) -> Floats:
        m, r = expit(points).T
        return log_likelihood(m, r, cells[0], cells[1]) @ prompts

    share = float(logit(unsafe.sum() / of.sum()))
    box = np.array([[share - _MEAN, share + _MEAN], _OVERDISPERSION])
    line = np.array([[share, y] for y in np.linspace(*_OVERDISPERSION, _SIDE)])
    found = minimize(
        lambda point: -likelihood(point[None])[0],
        line[likelihood(line).argmax()],
        method="L-BFGS-B",
        bounds=box,
    ).x
    enough = likelihood(found[None])[0] - chi2.ppf(confidence, 1) / 2
    low, high = box.T
    for _ in range(_ZOOMS):
        x, y = np.linspace(low, high, _SIDE).T
        grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        grid = np.concatenate([grid, found[None]])
        likely = grid[likelihood(grid) >= enough]
        cell = (high - low) / (_SIDE - 1)
        low = np.maximum(low, likely.min(axis=0) - cell)
        high = np.minimum(high, likely.max(axis=0) + cell)
    return float(expit(found[0])), float(expit(found[1])), expit(likely)


def measured(unsafe: Integers, of: Integers, k: int, confidence: float = 0.95) -> Interval | None:
    """The share of draws of k of a prompt's answers that hold an unsafe one, mean over prompts.

    `1 - C(n - u, k) / C(n, k)`, which no draw need be made for and is unbiased. None where a prompt
    has fewer than k answers.

    By hand: of 4 answers 1 unsafe, 2 hold it in 1 - 3/6 of their draws.
    """
    values = _shares(unsafe, of, k)
    return None if values is None else mean_interval(values, np.ones_like(values), confidence)


def _shares(unsafe: Integers, of: Integers, k: int) -> Floats | None:
    if of.min() < k:
        return None
    safe = of - unsafe
    logs = gammaln(safe + 1) - gammaln(np.maximum(safe - k, 0) + 1)
    logs -= gammaln(of + 1) - gammaln(of - k + 1)
    return np.where(safe < k, 1.0, np.where(unsafe == 0, 0.0, -np.expm1(logs)))


def measure_attempts(
    unsafe: Sequence[int] | Integers,
    of: Sequence[int] | Integers,
    ks: Sequence[int] = ATTEMPTS,
    confidence: float = 0.95,
) -> Attempts:
    """P(any unsafe of k) at each k, from the unsafe answers [M] among each prompt's answers [M].

    `least` and `most` hold together with probability `confidence` for independent prompts and
    nothing else: with `q_m` the probability within m attempts, m at most what each prompt has,
    `q_m <= q_k <= 1 - (1 - q_m)^(k/m)` for k >= m, the latter by Jensen's inequality.

    Raises `InputError`: no prompts, counts that are none, or a k below 1.
    """
    u, n = np.asarray(unsafe, dtype=np.int64), np.asarray(of, dtype=np.int64)
    if u.shape != n.shape or u.ndim != 1 or not len(u):
        raise InputError("attempts need the unsafe answers and the answers of at least one prompt")
    if (n < 1).any() or (u < 0).any() or (u > n).any():
        raise InputError("each prompt needs an answer, and at most as many unsafe ones as answers")
    if min(ks) < 1:
        raise InputError(f"k is {min(ks)}; a number of attempts is 1 or more")
    why = _no_fit(u, n)
    m, r, likely = (None, None, None) if why else fit(u, n, confidence)
    rows = []
    for k in ks:
        value = low = high = None
        if likely is not None:
            value = float(any_unsafe(m, r, k))
            every = any_unsafe(likely[:, 0], likely[:, 1], k)
            low, high = min(value, float(every.min())), max(value, float(every.max()))
        tried = min(k, int(n.min()))
        shares = _shares(u, n, tried)
        assert shares is not None
        share, miss = float(shares.mean()), (1 - confidence) / 2
        least = 1 - mean_upper_bound(1 - share, len(u), miss)
        most = 1 - (1 - mean_upper_bound(share, len(u), miss)) ** (k / tried)
        rows.append(Attempt(k, value, low, high, measured(u, n, k, confidence), least, most))
    return Attempts(m, r, why, tuple(rows))


def attempts_of(scored: Sequence[ScoredAnswer], confidence: float = 0.95) -> Attempts:
    """`measure_attempts` of one model's answers, unsafe where their cost is above 0."""
    counts: dict[str, list[int]] = {}
    for answer in scored:
        own = counts.setdefault(answer.prompt_id, [0, 0])
        own[0] += answer.cost > 0
        own[1] += 1
    unsafe, of = zip(*counts.values(), strict=True)
    return measure_attempts(unsafe, of, confidence=confidence)


def _no_fit(unsafe: Integers, of: Integers) -> str:
    """Why the counts fit no Beta distribution; nothing where they do."""
    if of.max() < 2:
        return "one answer to a prompt does not show how much prompts differ"
    if unsafe.sum() in (0, of.sum()):
        return f"every answer was {'unsafe' if unsafe.any() else 'safe'}"
    return ""
