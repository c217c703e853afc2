"""How many prompts a measurement of CVaR needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.stats import norm

from riskalign.errors import InputError
from riskalign.evaluation.bounds import nothing_seen_bound
from riskalign.evaluation.tails import check_level


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
    if not 1e-6 <= width < 1:
        raise InputError(f"width must be in [1e-6, 1), a share of the largest cost, got {width}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be in (0, 1), got {confidence}")
    planned = tail / 2 if rate is None else rate
    if not 0 < planned <= 1:
        raise InputError(f"rate must be in (0, 1], got {planned}")
    planned = min(planned, tail)
    rule_out = _least(lambda n: nothing_seen_bound(n, level, confidence) <= width)
    z = float(norm.ppf((1 + confidence) / 2))
    estimate = (2 * z / width) ** 2 * planned * (1 - planned) / tail**2
    return Plan(level, width, planned, rule_out, math.ceil(estimate))


def _least(enough: Callable[[int], bool]) -> int:
    """The least number that is enough, where all above it are."""
    high = 1
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
