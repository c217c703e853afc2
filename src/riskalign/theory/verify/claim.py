"""Claims of the theory: how one is written, the trees it is checked on, what checking it found."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from riskalign.risk import Risk, get_risk
from riskalign.theory.families import FAMILIES, random_mdp
from riskalign.theory.tree import Levels, TokenMDP

Bound = Literal["at most", "at least", "reported"]
Errors = dict[str, float]
F = TypeVar("F", bound=Callable[..., Any])

BETA = 0.5
GROUPS = {
    "risk": "Risk measures",
    "values": "Nested values and their optima",
    "loss": "The loss finds the theory",
    "steps": "Two steps, the constraint, the drift",
    "dial": "The dial",
    "answers": "The tail of whole answers",
}


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
    bound: Bound


@dataclass(frozen=True)
class Finding:
    """What checking a claim found; `figure` is the largest error, or the smallest gap."""

    claim: Claim
    figure: float
    by_case: Errors
    passed: bool
    seconds: float


WRITTEN: list[Claim] = []  # by the decorator below, module by module


def claim(
    group: str,
    key: str,
    statement: str,
    tolerance: float = 0.0,
    bound: Bound = "at most",
    *,
    cases: Mapping[str, Any] | None = None,
) -> Callable[[F], F]:
    """Add a claim, checked by the function below: of the setting, it returns its `Errors`.

    With `cases` the function is one of a batch of trees and of a case: it yields tensors of errors
    (gaps, facts), and `over_trees` makes the figures.
    """

    def add(function: F) -> F:
        check: Callable[[Setting], Errors] = function
        if cases is not None:
            check = partial(over_trees, cases=cases, errors=function, figure=FIGURES[bound])
        WRITTEN.append(Claim(key, group, statement, check, tolerance, bound))
        return function

    return add


def largest(errors: Tensor) -> float:
    """The largest of a tensor of errors; NaN, which passes no bound, if any is NaN."""
    return float("nan") if bool(errors.isnan().any()) else float(errors.amax())


def smallest(gaps: Tensor) -> float:
    """The smallest of a tensor of gaps; NaN, which passes no bound, if any is NaN."""
    return -largest(-gaps)


def _mean(facts: Tensor) -> float:
    return float(facts.mean())  # by name, for other processes


FIGURES: dict[Bound, Callable[[Tensor], float]] = {
    "at most": largest,
    "at least": smallest,
    "reported": _mean,
}


def over_trees(
    setting: Setting,
    cases: Mapping[str, Any],
    errors: Callable[[TokenMDP, Any], Iterable[Tensor]],
    figure: Callable[[Tensor], float] = largest,
) -> Errors:
    """For each case the figure of all errors on all trees."""
    forest = trees(setting)
    return {
        name: figure(torch.cat([each.flatten() for mdp in forest for each in errors(mdp, case)]))
        for name, case in cases.items()
    }


def measures(*names: str) -> dict[str, Risk]:
    """Risk measures as cases."""
    return {name: get_risk(name) for name in names}


MEASURES = measures("mean", "cvar:0.5", "cvar:0.95", "erm:0.5", "erm:2.0")


def trees(setting: Setting, vocabulary: int = 4, depth: int = 3) -> list[TokenMDP]:
    """At least `setting.trees` trees in all, a batch from each family."""
    each = -(-setting.trees // len(FAMILIES))
    return [
        random_mdp(family, setting.seed + i, vocabulary=vocabulary, depth=depth, count=each)
        for i, family in enumerate(FAMILIES)
    ]


def noise(levels: Levels, generator: torch.Generator) -> Levels:
    """Standard normal levels of the same shapes."""
    return tuple(
        torch.randn(level.shape, generator=generator, dtype=level.dtype) for level in levels
    )


def rivals(log_policy: Levels, tries: int, seed: int, spread: float = 1.0) -> list[Levels]:
    """Random policies around one, near and far."""
    generator = torch.Generator().manual_seed(seed)
    return [
        tuple(
            (level + spread * 10.0 ** -(i % 4) * shift).log_softmax(-1)
            for level, shift in zip(log_policy, noise(log_policy, generator), strict=True)
        )
        for i in range(tries)
    ]


def total_variation(first: Levels, second: Levels) -> Tensor:
    """Largest total variation between two policies over all states: one number a tree."""
    worst = [
        ((a.exp() - b.exp()).abs().sum(-1) / 2).flatten(-1).amax(-1)
        for a, b in zip(first, second, strict=True)
    ]
    return torch.stack(worst).amax(0)


def divergence(p: Tensor, log_q: Tensor) -> Tensor:
    """KL(exp(p) || exp(q)) over the last dimension, of log probabilities."""
    return (p.exp() * (p - log_q)).sum(-1)
