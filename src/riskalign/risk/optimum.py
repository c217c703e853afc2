"""The policy that is best for a tail of whole answers, from answers of the one that is left."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from riskalign.errors import InputError, LimitKept
from riskalign.risk.answers import TailCost, answer_risk, tail_cost
from riskalign.risk.registry import Risk
from riskalign.risk.tilts import Base, Tilts

_STRONGEST = 1e4  # nats per cost, to say what the least risk is


@dataclass(frozen=True)
class TailOptimum:
    """The minimiser of `strength * risk + KL` and what is expected of it.

    `weights` [N] sum to 1 over all answers; `risk` is their costs' risk, `cost` their mean cost,
    `kl` in nats, `objective` what was minimised. `effective` is the mean number of answers that a
    prompt's weights stand on, `effective_tail` the number that the risk itself stands on: where
    either is small the expectation is worth little.
    """

    phi: TailCost
    strength: float
    weights: Tensor
    risk: float
    cost: float
    kl: float
    objective: float
    effective: float
    effective_tail: float


def tail_optimum(
    costs: Tensor,
    risk: str | Risk,
    strength: float,
    *,
    log_base: Tensor | None = None,
    prompt: Tensor | None = None,
    starts: int = 512,
) -> TailOptimum:
    """The tilt `w ∝ base exp(-strength phi_w(C))` of least `strength rho(C) + KL(w || base)`.

    docs/method.md, section 8: for a fixed tail cost `phi` the best policy is a tilt by it,
    and `phi` belongs to the costs' distribution under that very policy; `strength` is lambda/beta.

    The base's own tail cost is moved along the costs, to each of them if there are at most
    `starts`, else to `starts` of them and then to those around the best. For CVaR that is every
    threshold; between neighbouring costs the objective is concave in `eta`, so the best of the
    scan is the optimum. For the entropic measure it is every scale. From the best ends the tilt by
    the own tail cost is repeated while it lowers the objective, as it does for a risk that is
    concave in the distribution (CVaR, spectral and distortion measures, the entropic one); at last
    the end's own tail cost is moved to the costs around it.

    Shapes: `costs` [N]; `log_base` [N], log weights of the answers (natural; equal without it);
    `prompt` [N], whole numbers: weights are normalised within a prompt, and prompts count alike.

    Raises `InputError` for a strength that is not positive and finite, and what `tail_cost` does.

    By hand: two answers of equal weight, costs 0 and 1, CVaR 0 (the mean), strength log 3: weights
    3/4 and 1/4, risk 1/4.
    """
    measure = answer_risk(risk)
    if starts < 1:
        raise InputError(f"starts must be at least 1, not {starts}")
    if not 0.0 < strength < float("inf"):
        raise InputError(f"strength must be positive and finite, not {strength}")
    costs = costs.double().flatten()
    base = Base.of(costs, log_base, prompt)
    tilts = Tilts.of(costs, measure, strength, base)
    start = tail_cost(costs, measure, base.log_weights.exp())
    least, log_w = tilts.descended(tilts.scanned(start, starts))
    while True:
        better, moved = tilts.descended(tilts.around(log_w.exp()))
        if not better < least - 1e-13 * (1 + abs(least)):
            break
        least, log_w = better, moved
    weights = log_w.exp()
    return TailOptimum(
        phi=tail_cost(costs, measure, weights),
        strength=strength,
        kl=float(base.kl(log_w.unsqueeze(0))[0]),
        objective=least,
        **_expected(tilts, weights, weights.log()),
    )


def _expected(tilts: Tilts, weights: Tensor, log_weights: Tensor) -> dict[str, Any]:
    """What is expected under the weights [N]."""
    value, q = tilts.risk(tilts.costs, log_weights)
    return {
        "weights": weights,
        "risk": float(value),
        "cost": float(weights @ tilts.costs),
        "effective": tilts.base.effective(weights),
        "effective_tail": float(q.sum() ** 2 / q.square().sum()),
    }


def strength_for(
    costs: Tensor,
    risk: str | Risk,
    limit: float,
    *,
    log_base: Tensor | None = None,
    prompt: Tensor | None = None,
    starts: int = 64,
) -> TailOptimum:
    """The tilt nearest to the base whose costs' risk is at most `limit`: least KL, so most reward.

    As MoCAN (arXiv 2405.19544) solves its dual: before training, from samples of the policy that
    one starts from. Not every such tilt is a `tail_optimum` of some strength, for the problem is
    not convex; but for a fixed tail cost it is: CVaR is at most `limit` where
    `eta + E(C - eta)_+ / (1 - a)` is for some `eta`, which is one limit on a mean. So the base's
    tail cost is moved along the costs (to each of them, or to `starts` and then to those around the
    best), the least strength that keeps the limit is found for each, and of these tilts the one
    of least KL is kept. For CVaR its threshold is its own quantile again.

    Raises `LimitKept` for a limit that the base keeps already, `InputError` for one that no tilt of
    the sample does.

    By hand: answers of cost 0 and 1 alike, the mean at most 1/4: weights 3/4 and 1/4, strength
    log 3.
    """
    costs = costs.double().flatten()
    measure = answer_risk(risk)
    base = Base.of(costs, log_base, prompt)
    now = float(measure(costs, base.log_weights).value)
    if now <= limit:
        raise LimitKept(
            f"limit is {limit:g}, and the risk {measure.spec} is {now:.4g} already; "
            "lower it, or leave the step out (skip: true)"
        )
    tilts = Tilts.of(costs, measure, 1.0, base)
    start = tail_cost(costs, measure, base.log_weights.exp())
    last = len(tilts.distinct) - 1
    stride = -(-(last + 1) // starts)
    ranks = torch.arange(0, last + 1, stride)
    best = tilts.within(start, ranks, limit)
    while stride > 1 and best is not None:
        finer = max(1, stride // 8)
        around = best.rank + torch.arange(-stride, stride + 1, finer)
        found = tilts.within(start, around.clamp(0, last).unique(), limit)
        best = found if found is not None and found.kl < best.kl else best
        stride = finer
    if best is None:
        least = tail_optimum(costs, measure, _STRONGEST, log_base=log_base, prompt=prompt)
        raise InputError(
            f"limit is {limit:g}, and the least risk {measure.spec} that a tilt of these answers "
            f"has is about {least.risk:.4g}; raise it, or sample more answers a prompt"
        )
    expected = _expected(tilts, best.log_w.exp(), best.log_w)
    return TailOptimum(
        phi=start.moved(float(tilts.distinct[best.rank]) - start.bend),
        strength=best.strength,
        kl=best.kl,
        objective=best.strength * expected["risk"] + best.kl,
        **expected,
    )
