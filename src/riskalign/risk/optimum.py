"""The policy that is best for a tail of whole answers, from answers of the one that is left."""

from dataclasses import dataclass

from torch import Tensor

from riskalign.errors import InputError
from riskalign.risk.answers import TailCost, answer_risk, tail_cost
from riskalign.risk.registry import Risk
from riskalign.risk.tilts import Base, Tilts

_STRONGEST = 1e6  # of `strength` times the costs' spread; beyond it nothing moves any more
_HALVINGS = 50


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
    found, log_w = tilts.descended(tilts.scanned(start, starts))
    while True:
        better, moved = tilts.descended(tilts.around(log_w.exp()))
        if not better < found - 1e-13 * (1 + abs(found)):
            break
        found, log_w = better, moved
    weights = log_w.exp()
    log_p = weights.log()
    value, q = measure(costs, log_p)
    return TailOptimum(
        phi=tail_cost(costs, measure, weights),
        strength=strength,
        weights=weights,
        risk=float(value),
        cost=float(weights @ costs),
        kl=float(base.kl(log_w.unsqueeze(0))[0]),
        objective=found,
        effective=base.effective(weights),
        effective_tail=float(q.sum() ** 2 / q.square().sum()),
    )


def strength_for(
    costs: Tensor,
    risk: str | Risk,
    limit: float,
    *,
    log_base: Tensor | None = None,
    prompt: Tensor | None = None,
    starts: int = 64,
) -> TailOptimum:
    """The weakest tilt whose costs' risk is at most `limit`, as `tail_optimum` finds it.

    As MoCAN (arXiv 2405.19544) solves its dual: before training, from samples of the policy that
    one starts from. Where the risk jumps past the limit, its safer side is taken.

    Raises `InputError` for a limit that the base keeps already, or that no tilt of the sample does.
    """
    costs = costs.double().flatten()
    measure = answer_risk(risk)
    base = Base.of(costs, log_base, prompt)
    now = float(measure(costs, base.log_weights).value)
    if now <= limit:
        raise InputError(f"limit is {limit:g}, and the risk {measure.spec} is {now:.4g} already")

    def at(strength: float) -> TailOptimum:
        return tail_optimum(
            costs, measure, strength, log_base=log_base, prompt=prompt, starts=starts
        )

    # Equal costs have no spread, and no tilt lowers their risk.
    spread = float(costs.max() - costs.min()) or 1.0
    low, high = 1e-6 / spread, _STRONGEST / spread
    best = at(high)
    if best.risk > limit:
        raise InputError(
            f"limit is {limit:g}, and the least risk {measure.spec} that a tilt of these answers "
            f"has is {best.risk:.4g}; raise it, or sample more answers a prompt"
        )
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        tried = at(middle)
        low, high = (low, middle) if tried.risk <= limit else (middle, high)
        best = tried if tried.risk <= limit else best
        if high / low < 1 + 1e-4:
            break
    return best
