"""The registry of risk measures and the way to name one."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from riskalign.errors import InputError
from riskalign.plugin import load
from riskalign.risk.measures import RiskValue, cvar, entropic, mean, paper_code, paper_code_halves


class Measure(NamedTuple):
    """A family of risk measures: its function and the parameters that it takes.

    `function(losses, log_probs)` or `function(losses, log_probs, parameter)` returns a
    `RiskValue`. `low <= parameter < high`, or `low < parameter` where `open_low`; a family
    without a parameter has `low` None. `law_invariant`: whether the value depends on the losses'
    distribution alone, as that of whole answers must. `rescaled(parameter, beta)`, of a family that
    is not positively homogeneous, is the parameter at which `beta * risk(losses / beta)` is the
    same measure of the losses (docs/method.md, section 5).
    """

    function: Callable[..., RiskValue]
    low: float | None = None
    high: float = math.inf
    open_low: bool = False
    law_invariant: bool = True
    rescaled: Callable[[float, float], float] | None = None

    def accepts(self, parameter: float) -> bool:
        """Whether `parameter` lies in the family's range."""
        low = math.inf if self.low is None else self.low
        return low <= parameter < self.high and not (self.open_low and parameter == low)

    def describe(self) -> str:
        """The range in words, for error messages."""
        if self.low is None:
            return "takes no parameter"
        return f"parameter in {'(' if self.open_low else '['}{self.low:g}, {self.high:g})"


RISKS: Mapping[str, Measure] = {
    "mean": Measure(mean),
    "cvar": Measure(cvar, low=0.0, high=1.0),
    "erm": Measure(entropic, low=0.0, open_low=True, rescaled=lambda mu, beta: mu / beta),
    "paper_code": Measure(paper_code, low=0.0, high=1.0, law_invariant=False),
    "paper_code_halves": Measure(paper_code_halves, low=0.0, high=1.0, law_invariant=False),
}


@cache
def _outside(name: str) -> Measure:
    measure = load(name, "risk", lambda attribute: attribute)
    if not isinstance(measure, Measure):
        raise InputError(f"risk: {name!r} is no riskalign.risk.Measure")
    return measure


@dataclass(frozen=True)
class Risk:
    """One risk measure with its parameter; call it on losses and log probabilities.

    `name` is a key of `RISKS`, or `package.module:NAME` of a `Measure` elsewhere. Raises
    `InputError` for an unknown name or a parameter out of range.
    """

    name: str
    parameter: float | None = None

    def __post_init__(self) -> None:
        choices = "; ".join(f"{name}: {measure.describe()}" for name, measure in RISKS.items())
        if self.name not in RISKS and ":" not in self.name:
            raise InputError(
                f"risk {self.name!r} is not known; choose one of {choices}; or package.module:NAME"
            )
        measure = self.measure
        if self.parameter is not None and not measure.accepts(self.parameter):
            raise InputError(f"risk '{self.spec}' is out of range: {choices}")
        if self.parameter is None and measure.low is not None:
            raise InputError(
                f"risk {self.name!r} needs a parameter ({measure.describe()}), "
                f"for example '{self.name}:0.5'"
            )

    @property
    def measure(self) -> Measure:
        """Its family."""
        return RISKS[self.name] if self.name in RISKS else _outside(self.name)

    @property
    def spec(self) -> str:
        """The text that `get_risk` reads back, for example "cvar:0.95"."""
        return self.name if self.parameter is None else f"{self.name}:{self.parameter!r}"

    def __call__(self, losses: Tensor, log_probs: Tensor) -> RiskValue:
        """Risk of `losses` [..., V] under `exp(log_probs)` [..., V] (normalised, natural log).

        An entry of probability zero (`log_probs` of -inf) counts for nothing, whatever its loss.
        The result is differentiable in neither argument: the worst-case density is the gradient.
        """
        parameters = () if self.parameter is None else (self.parameter,)
        with torch.no_grad():
            if log_probs.numel() and bool(log_probs.amin() == -torch.inf):
                losses = losses.masked_fill(log_probs == -torch.inf, 0.0)
            return self.measure.function(losses, log_probs, *parameters)


def get_risk(spec: str | Risk) -> Risk:
    """Read a risk measure from its text, for example "mean", "cvar:0.95" or "erm:0.5".

    Raises `InputError`, naming the choices, for anything else.
    """
    if isinstance(spec, Risk):
        return spec
    name, *rest = (part.strip() for part in spec.split(":"))
    if name not in RISKS and rest and re.fullmatch(r"[^\W\d]\w*", rest[0]) and rest[0] != "nan":
        name = f"{name}:{rest.pop(0)}"
    if not rest:
        return Risk(name)
    text = ":".join(rest)
    try:
        parameter = float(text)
    except ValueError:
        raise InputError(f"risk {spec!r}: {text!r} is not a number; write 'cvar:0.95'") from None
    return Risk(name, parameter)
