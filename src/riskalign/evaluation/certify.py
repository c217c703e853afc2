"""The most helpful of several settings that surely keeps its limits, or none.

Fixed-sequence testing (Angelopoulos et al., 2021, "Learn then Test", section 3): the settings are
tried from the safest on, each by tests at the whole level, and the first failure ends it. That the
chosen one breaks a limit needs the first test of a setting that does to err, which happens with
probability at most `1 - confidence`. Of several limits a setting must pass all; where it breaks any
one of them, that one's test must err, so each is tested at the whole level as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from riskalign.data.sources import file_rows
from riskalign.errors import InputError
from riskalign.evaluation.bounds import BOUNDS, betting_keeps, cvar_upper_bound, rate_upper_bound
from riskalign.evaluation.corrected import Counts, upper
from riskalign.evaluation.tails import check_level, tail
from riskalign.worlds.world import is_number

UNSAFE = "unsafe_rate"
#: Of prompts that would be needed no more than so many times those asked are looked for.
_MOST_TIMES = 1024


class Asked(NamedTuple):
    """What a prompt's answers cost; `category` is of limits on a part of the prompts."""

    costs: Sequence[float]
    category: str | None = None


@dataclass(frozen=True)
class Limit:
    """The most that a risk of one answer's cost may be.

    `risk` is `cvar:` and a level, mean, or unsafe_rate, the probability of a cost above 0. With a
    `category` only prompts of it count.

    Raises `InputError` for another risk, or a limit that is negative or not finite.
    """

    risk: str
    limit: float
    category: str | None = None

    def __post_init__(self) -> None:
        """Refuse a risk that no bound is known of."""
        check_risk(self.risk)
        if not 0 <= self.limit < float("inf"):
            raise InputError(f"limit: must be 0 or more and finite, got {self.limit}")

    def of(self, asked: Sequence[Asked]) -> list[Sequence[float]]:
        """The costs that the limit is on, by prompt."""
        return [own.costs for own in asked if self.category in (None, own.category)]


def check_risk(risk: str) -> float | None:
    """The level of a risk of `Limit`, 0 for the mean; None for the unsafe rate."""
    if risk == UNSAFE:
        return None
    name, _, text = risk.partition(":")
    if risk != "mean" and name != "cvar":
        raise InputError(f"risk: must be cvar:LEVEL, mean or unsafe_rate, not {risk!r}")
    try:
        level = 0.0 if risk == "mean" else float(text)
    except ValueError:
        raise InputError(f"risk: {risk!r} has no level; write cvar:0.95 for instance") from None
    check_level(level)
    return level


@dataclass(frozen=True)
class Bounded:
    """How limits are tested: by the bound `method`, of costs up to `max_cost`.

    With a `sensitivity`, and a `specificity` where it is known, bounds of the unsafe rate are of
    what a scorer that errs so often on labels must have behind it; half of the level is theirs.
    """

    confidence: float = 0.95
    max_cost: float | None = None
    method: str = "betting"
    sensitivity: Counts | None = None
    specificity: Counts | None = None

    def __post_init__(self) -> None:
        """Refuse what no test can be made with."""
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence: must be in (0, 1), got {self.confidence}")
        if self.method not in BOUNDS:
            raise InputError(f"bound: must be one of {', '.join(BOUNDS)}, not {self.method!r}")

    def upper(self, limit: Limit, by_prompt: Sequence[Sequence[float]], times: int = 1) -> float:
        """The upper bound of a limit's risk; of so many times these prompts."""
        level = check_risk(limit.risk)
        if level is None:
            return self._upper_rate(by_prompt, times)
        if self.max_cost is None:
            raise InputError(
                f"max_cost: is not known, and without it no bound on {limit.risk} holds for every "
                "distribution. Say the largest cost there can be, or limit unsafe_rate."
            )
        how = level, self.max_cost, self.confidence, self.method
        return cvar_upper_bound(by_prompt, *how, times=times)

    def keeps(self, limit: Limit, by_prompt: Sequence[Sequence[float]]) -> Callable[[int], bool]:
        """Says of n times these prompts whether `upper` is at most the limit."""
        level = check_risk(limit.risk)
        if level is None or self.max_cost is None or self.method == "chernoff":
            return lambda times: self.upper(limit, by_prompt, times) <= limit.limit
        # A band of so many ranks as `order` needs takes long, so that betting answers for it.
        return betting_keeps(by_prompt, limit.limit, level, self.max_cost, self.confidence)

    def _upper_rate(self, by_prompt: Sequence[Sequence[float]], times: int) -> float:
        if self.sensitivity is None:
            return rate_upper_bound(by_prompt, self.confidence, times=times)
        miss = (1 - self.confidence) / 2
        called = rate_upper_bound(by_prompt, 1 - miss, times=times)
        try:
            return upper(called, self.sensitivity, self.specificity, miss)
        except InputError:  # labels that say nothing of false alarms; then none is counted
            return upper(called, self.sensitivity, None, miss)


@dataclass(frozen=True)
class Tested:
    """One setting's risk against one limit: as estimated, and its upper bound."""

    setting: str
    risk: str
    limit: float
    category: str | None
    estimate: float
    bound: float
    passed: bool
    prompts: int
    answers: int


@dataclass(frozen=True)
class Verdict:
    """What was tested, in order, and the setting chosen; None where not even the first passed.

    Then `prompts_needed` is about how many prompts like those asked the first would have passed
    with, None where its risk is estimated above a limit, or that is too far.
    """

    chosen: str | None
    tests: tuple[Tested, ...]
    prompts_needed: int | None = None


def estimate(risk: str, by_prompt: Sequence[Sequence[float]]) -> float:
    """A risk as the answers show it, prompts weighing the same."""
    level = check_risk(risk)
    if level is None:
        return float(np.mean([np.mean(np.asarray(costs) > 0) for costs in by_prompt]))
    costs = np.concatenate([np.asarray(own, dtype=np.float64) for own in by_prompt])
    weights = np.repeat([1 / len(own) for own in by_prompt], [len(own) for own in by_prompt])
    return float(tail(costs, weights[None], (level,))[1][0, 0])


def read_costs(path: Path) -> list[Asked]:
    """The costs of a file of scored answers, by prompt: JSON lines or parquet, of any tool.

    Each has `cost`, and `prompt` (text or messages) or `prompt_id`; it may have `category`, one
    for a prompt.

    Raises `InputError` naming file, line and field.
    """
    costs: dict[str, list[float]] = {}
    categories: dict[str, str | None] = {}
    for where, row in file_rows(path):
        asked = row.get("prompt_id", row.get("prompt")) if isinstance(row, dict) else None
        if not isinstance(asked, str | int | list) or isinstance(asked, bool):
            raise InputError(
                f"{where}: no field 'prompt' or 'prompt_id', which says what was asked"
            )
        cost, category = row.get("cost"), row.get("category")
        if not is_number(cost) or isinstance(cost, bool) or cost < 0:
            raise InputError(f"{where}: field 'cost' is {str(cost)[:40]}; give a number, 0 or more")
        if not isinstance(category, str | None):
            raise InputError(f"{where}: field 'category' is {str(category)[:40]}; give text")
        key = asked if isinstance(asked, str) else json.dumps(asked)
        if categories.setdefault(key, category) != category:
            raise InputError(f"{where}: field 'category' is another one than before of this prompt")
        costs.setdefault(key, []).append(float(cost))
    if not costs:
        raise InputError(f"{path}: no scored answers in it; give at least one.")
    return [Asked(own, categories[key]) for key, own in costs.items()]


def certify(
    settings: Iterable[tuple[str, Callable[[], Sequence[Asked]]]],
    limits: Sequence[Limit],
    bounded: Bounded,
) -> Verdict:
    """Test settings, the safest first, and choose the last one before the first that fails.

    Args:
        settings: names, and what their answers to the calibration prompts cost; asked for one by
            one, so that nothing is sampled of settings that are not tested. The prompts must be
            independent draws that nothing else was chosen by.
        limits: all that the chosen setting keeps with probability `bounded.confidence`, jointly.
        bounded: how to test.

    Raises:
        InputError: no limits, no prompts of a limit's category, costs out of range, or a largest
            cost that is needed and not known.
    """
    if not limits:
        raise InputError("limit: there is none to keep")
    chosen, tests = None, []
    for name, answers in settings:
        asked = answers()
        made = [_test(name, asked, limit, bounded) for limit in limits]
        tests += made
        if not all(test.passed for test in made):
            needed = _prompts_needed(asked, limits, bounded) if chosen is None else None
            return Verdict(chosen, tuple(tests), needed)
        chosen = name
    if chosen is None:
        raise InputError("there is no setting to test")
    return Verdict(chosen, tuple(tests))


def _test(name: str, asked: Sequence[Asked], limit: Limit, bounded: Bounded) -> Tested:
    own = limit.of(asked)
    if not own:
        raise InputError(f"limit: none of the {len(asked)} prompts is of {limit.category!r}")
    bound, answers = bounded.upper(limit, own), sum(map(len, own))
    found, passed = estimate(limit.risk, own), bound <= limit.limit
    where = limit.risk, limit.limit, limit.category
    return Tested(name, *where, found, bound, passed, len(own), answers)


def _prompts_needed(
    asked: Sequence[Asked], limits: Sequence[Limit], bounded: Bounded
) -> int | None:
    """How many prompts like these all limits would be kept with; for `order` by betting instead."""
    keeps = [bounded.keeps(limit, limit.of(asked)) for limit in limits]

    def enough(times: int) -> bool:
        return all(each(times) for each in keeps)

    if any(estimate(limit.risk, limit.of(asked)) >= limit.limit for limit in limits):
        return None
    high = 2
    while not enough(high):
        high *= 2
        if high > _MOST_TIMES:
            return None
    low = high // 2
    while high - low > max(1, low // 20):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high * len(asked)
