"""A claim of the theory, and what checking it found."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

Bound = Literal["at most", "at least", "reported"]
Errors = dict[str, float]


class Setting(NamedTuple):
    """How much is checked: `trees` random trees, from `seed`."""

    trees: int
    seed: int


@dataclass(frozen=True)
class Claim:
    """A statement with a way to measure how far it is from true.

    `check` returns a figure for each measure (or case). With bound "at most" the largest must not
    exceed `tolerance`; with "at least" the smallest must reach it, which is how a statement that
    something does *not* hold is checked; "reported" figures are facts without a verdict.
    """

    key: str
    group: str
    statement: str
    check: Callable[[Setting], Errors]
    tolerance: float
    bound: Bound = "at most"


@dataclass(frozen=True)
class Finding:
    """What checking one claim found; `figure` is the largest error, or the smallest gap."""

    key: str
    group: str
    statement: str
    bound: Bound
    tolerance: float
    figure: float
    by_case: Errors
    passed: bool
    seconds: float


def largest(errors: Tensor) -> float:
    """The largest of a tensor of errors; NaN, which passes no bound, if any is NaN."""
    return float("nan") if bool(errors.isnan().any()) else float(errors.amax())


def smallest(gaps: Tensor) -> float:
    """The smallest of a tensor of gaps; NaN, which passes no bound, if any is NaN."""
    return float("nan") if bool(gaps.isnan().any()) else float(gaps.amin())
