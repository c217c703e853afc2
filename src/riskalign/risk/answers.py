"""The tail cost of whole answers: what a risk measure charges each cost of a distribution.

Shape legend: N costs, K distinct costs among them, M nodes, S distributions over the same costs.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from riskalign.errors import InputError
from riskalign.risk.registry import RISKS, Risk, get_risk

# The mass of a node, so small that no measure's value feels it. A density's ratio to it is what
# the measure charges there; float64 holds ratios from e^-100 to e^600 of it.
_NODE_LOG_MASS = -600.0
# Gauss-Legendre nodes between neighbouring costs: exact for a constant charge (CVaR), and to
# rounding for one that grows by a factor of up to e^5 in between (entropic).
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(8)


@dataclass(frozen=True)
class TailCost:
    """A rising, convex, piecewise linear function of the cost; call it on costs of any shape.

    `knots` [K] rise, `values` [K] stand at them, `below` and `above` are the slopes outside. It is
    0 at the least cost of the sample that it was made of, and in the cost's own units.
    """

    knots: tuple[float, ...]
    values: tuple[float, ...]
    below: float
    above: float

    def __call__(self, costs: Tensor) -> Tensor:
        """What is charged for each cost; the shape and dtype of `costs`."""
        knots, values = (torch.tensor(x, dtype=torch.float64) for x in (self.knots, self.values))
        c = costs.double()
        last = len(self.knots) - 1
        low, high = c.clamp(max=self.knots[0]), c.clamp(min=self.knots[last])
        found = self.below * (low - self.knots[0]) + self.above * (high - self.knots[last])
        if last == 0:
            return (found + self.values[0]).to(costs.dtype)
        inner = c.clamp(self.knots[0], self.knots[last])
        right = torch.searchsorted(knots, inner.contiguous()).clamp(1, last)
        slope = (values[right] - values[right - 1]) / (knots[right] - knots[right - 1])
        found = found + values[right - 1] + slope * (inner - knots[right - 1])
        return found.to(costs.dtype)

    @property
    def threshold(self) -> float:
        """The largest cost that is charged no more than the least one (CVaR's quantile)."""
        free = [c for c, v in zip(self.knots, self.values, strict=True) if v <= self.values[0]]
        return free[-1] if self.below == 0.0 else -math.inf

    def moved(self, by: float) -> "TailCost":
        """The same function of the cost less `by`."""
        knots = tuple(knot + by for knot in self.knots)
        return TailCost(knots, self.values, self.below, self.above)

    @property
    def bend(self) -> float:
        """The knot where half of what the slope rises by has been reached (CVaR's quantile)."""
        rises = list(itertools.pairwise(zip(self.knots, self.values, strict=True)))
        inner = ((v - u) / (c - b) for (b, u), (c, v) in rises)
        slope_after = (*inner, self.above)
        half = (self.below + self.above) / 2
        return next(c for c, s in zip(self.knots, slope_after, strict=True) if s >= half)


def answer_risk(spec: str | Risk) -> Risk:
    """A risk measure that can charge whole answers.

    Raises `InputError` for one that is no function of the costs' distribution alone.
    """
    risk = get_risk(spec)
    if not risk.measure.law_invariant:
        raise InputError(
            f"risk {risk.spec!r} is no risk of a distribution of costs and has no tail cost; "
            f"choose one of {', '.join(name for name, m in RISKS.items() if m.law_invariant)}"
        )
    return risk


def tail_cost(costs: Tensor, risk: str | Risk, weights: Tensor | None = None) -> TailCost:
    """What a risk measure charges each cost, `phi(c) = integral of h(u) du` up to `c`.

    `h(u) = q(u) / p(u)` is the measure's worst-case density ratio under the distribution of
    `costs` [N] with `weights` [N] (at least 0, not all 0; without them equal). It is read off at
    nodes of vanishing mass between the costs, from the measure's own `(value, density)`, so that a
    measure of the registry needs nothing more to have a tail cost. `phi` is the derivative of the
    risk as a distribution moves, up to a constant (docs/method.md, section 8; for CVaR
    Rockafellar and Uryasev, 2000): for CVaR the hinge `(c - eta)_+ / (1 - a)`, also where an atom
    at the quantile `eta` is split, for the entropic measure `exp(mu (c - rho)) / mu`.

    Raises `InputError` for no costs, costs or weights that are not finite, weights below 0 or all
    0, and a measure without a tail cost.

    By hand: costs 0, 1, 4 of weights 1/2, 1/4, 1/4 have the quantile 1 at `a = 0.6` (the atom at 1
    is split), and `phi = (0, 0, 3 / 0.4) = (0, 0, 7.5)`.
    """
    distinct, log_probs = distribution(costs, weights)
    inner, below, above = slopes(distinct, log_probs.unsqueeze(0), answer_risk(risk))
    rises = inner[0] * distinct.diff()
    values = torch.cat([rises.new_zeros(1), rises.cumsum(0)])
    # A knot where the slope does not change says nothing; CVaR is left with one or two.
    around = torch.cat([below, inner[0], above])
    either = torch.maximum(around[1:].abs(), around[:-1].abs())
    keep = (around.diff().abs() > 1e-12 * either).nonzero().squeeze(-1)
    if not len(keep):
        keep = torch.tensor([0])
    return TailCost(
        tuple(distinct[keep].tolist()),
        tuple(values[keep].tolist()),
        float(below[0]),
        float(above[0]),
    )


def distribution(costs: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Distinct costs [K], rising, and the log probability of each [K], in float64."""
    costs = costs.double().flatten()
    weights = torch.ones_like(costs) if weights is None else weights.double().flatten()
    if not len(costs) or not bool(costs.isfinite().all()):
        raise InputError("costs: a tail cost needs at least one, all finite")
    if weights.shape != costs.shape or not bool((weights.isfinite() & (weights >= 0)).all()):
        raise InputError("weights: expected one for each cost, finite and at least 0")
    if not float(weights.sum()) > 0.0:
        raise InputError("weights: all are 0")
    distinct, place = costs.unique(return_inverse=True)
    mass = torch.zeros_like(distinct).index_add(0, place, weights)
    return distinct, (mass / mass.sum()).log()


def slopes(distinct: Tensor, log_probs: Tensor, risk: Risk) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of `h` between neighbouring costs [S, K-1], and `h` below and above all of them [S].

    `distinct` [K] rise; `log_probs` [S, K] are S distributions over them.
    """
    gaps = distinct.diff()
    places = torch.as_tensor((_NODES + 1) / 2, dtype=torch.float64)
    between = distinct[:-1, None] + gaps[:, None] * places
    step = 1e-6 * float(distinct[-1] - distinct[0] + distinct.abs().amax() + 1.0)
    outside = torch.stack([distinct[0] - step, distinct[-1] + step])
    nodes = torch.cat([between.flatten(), outside])
    losses = torch.cat([distinct, nodes]).expand(len(log_probs), -1)
    node_mass = log_probs.new_full((len(log_probs), len(nodes)), _NODE_LOG_MASS)
    density = risk(losses, torch.cat([log_probs, node_mass], dim=-1)).density
    charged = density[:, len(distinct) :]
    if not bool(charged.sum() <= 1e-9 * len(charged)):
        raise InputError(
            f"risk {risk.spec!r}: between costs from {float(distinct[0]):g} to "
            f"{float(distinct[-1]):g} its charge grows beyond what numbers hold; "
            "scale the costs down, or choose a smaller parameter"
        )
    h = charged / math.exp(_NODE_LOG_MASS)
    weights = torch.as_tensor(_NODE_WEIGHTS / 2, dtype=torch.float64)
    inner = h[:, :-2].unflatten(-1, (-1, len(places))) @ weights if len(gaps) else h[:, :0]
    return inner, h[:, -2], h[:, -1]
