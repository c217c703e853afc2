"""The policy that is best for a tail of whole answers, from answers of the one that is left.

Shape legend: N answers, K distinct costs among them, S starts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from riskalign.errors import InputError
from riskalign.risk.answers import TailCost, answer_risk, distribution, slopes, tail_cost
from riskalign.risk.registry import Risk

_ROUNDS = 200  # far more than any start takes
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
    starts: int = 64,
) -> TailOptimum:
    """The tilt `w ∝ base exp(-strength phi_w(C))` of least `strength rho(C) + KL(w || base)`.

    docs/method.md, section 8: for a fixed tail cost `phi` the best policy is a tilt by it,
    and `phi` belongs to the costs' distribution under that very policy; `strength` is lambda/beta.
    A law-invariant coherent risk is concave in the distribution, so that a tilt by the `phi` of
    any distribution never raises the objective: it is repeated until nothing moves, from `starts`
    beginnings (the base below each of so many of its quantiles), and the best end is kept. For
    CVaR an end is a threshold among the costs, as it must be: between neighbouring costs the
    objective is concave in `eta`.

    Shapes: `costs` [N]; `log_base` [N], log weights of the answers (natural; equal without it);
    `prompt` [N], whole numbers: weights are normalised within a prompt, and prompts count alike.

    Raises `InputError` for a strength that is not positive and finite, and what `tail_cost` does.

    By hand: two answers of equal weight, costs 0 and 1, CVaR 0 (the mean), strength log 3: weights
    3/4 and 1/4, risk 1/4.
    """
    measure = answer_risk(risk)
    if not 0.0 < strength < float("inf"):
        raise InputError(f"strength must be positive and finite, not {strength}")
    costs = costs.double().flatten()
    distinct, _ = distribution(costs)
    place = torch.searchsorted(distinct, costs)
    base = _Base.of(costs, log_base, prompt)

    def to_distinct(weights_SN: Tensor) -> Tensor:
        empty = weights_SN.new_zeros(len(weights_SN), len(distinct))
        return empty.index_add(1, place, weights_SN).clamp(min=0).log()

    def charged(log_probs_SK: Tensor) -> Tensor:
        inner, _, _ = slopes(distinct, log_probs_SK, measure)
        rises = (inner * distinct.diff()).cumsum(-1)
        return torch.cat([rises.new_zeros(len(rises), 1), rises], dim=-1)

    def objective(log_w_SN: Tensor) -> Tensor:
        value = measure(distinct.expand(len(log_w_SN), -1), to_distinct(log_w_SN.exp())).value
        return strength * value + base.kl(log_w_SN)

    mass = torch.zeros_like(distinct).index_add(0, place, base.log_weights.exp()).cumsum(0)
    grid = torch.linspace(0, 1, starts, dtype=torch.float64)
    upper = torch.searchsorted(mass, grid * mass[-1]).clamp(max=len(distinct) - 1).unique()
    below = place.unsqueeze(0) <= upper.unsqueeze(1)
    log_probs = to_distinct(below * base.log_weights.exp())
    log_probs = log_probs - log_probs.logsumexp(-1, keepdim=True)
    found = torch.full((len(upper),), torch.inf, dtype=torch.float64)
    kept: Tensor | None = None
    for _ in range(_ROUNDS):
        log_w = base.tilted(-strength * charged(log_probs)[:, place])
        value = objective(log_w)
        better = value < found - 1e-13 * (1 + value.abs())
        kept = log_w if kept is None else torch.where(better.unsqueeze(1), log_w, kept)
        found = torch.where(better, value, found)
        if not bool(better.any()):
            break
        # Starts that came to the same end go on as one.
        order = found.argsort()
        fresh = torch.ones_like(order, dtype=torch.bool)
        fresh[1:] = found[order].diff() > 0
        found, kept = found[order][fresh], kept[order][fresh]
        log_probs = to_distinct(kept.exp())
    assert kept is not None
    log_w = kept[int(found.argmin())]
    weights = log_w.exp()
    phi = tail_cost(costs, measure, weights)
    log_p = weights.log()
    q = measure(costs, log_p).density
    return TailOptimum(
        phi=phi,
        strength=strength,
        weights=weights,
        risk=float(measure(costs, log_p).value),
        cost=float(weights @ costs),
        kl=float(base.kl(log_w.unsqueeze(0))[0]),
        objective=float(found.min()),
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
    starts: int = 16,
) -> TailOptimum:
    """The weakest tilt whose costs' risk is at most `limit`, as `tail_optimum` finds it.

    As MoCAN (arXiv 2405.19544) solves its dual: before training, from samples of the policy that
    one starts from. Where the risk jumps past the limit, its safer side is taken.

    Raises `InputError` for a limit that the base keeps already, or that no tilt of the sample does.
    """
    costs = costs.double().flatten()
    measure = answer_risk(risk)
    base = _Base.of(costs, log_base, prompt)
    now = float(measure(costs, base.log_weights).value)
    if now <= limit:
        raise InputError(f"limit is {limit:g}, and the risk {measure.spec} is {now:.4g} already")

    def at(strength: float) -> TailOptimum:
        return tail_optimum(
            costs, measure, strength, log_base=log_base, prompt=prompt, starts=starts
        )

    spread = float(costs.max() - costs.min())
    low, high = 1e-6 / spread, _STRONGEST / spread
    least = at(high)
    if least.risk > limit:
        raise InputError(
            f"limit is {limit:g}, and the least risk {measure.spec} that a tilt of these answers "
            f"has is {least.risk:.4g}; raise it, or sample more answers a prompt"
        )
    best = least
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        tried = at(middle)
        low, high = (low, middle) if tried.risk <= limit else (middle, high)
        best = tried if tried.risk <= limit else best
        if high / low < 1 + 1e-4:
            break
    return best


@dataclass(frozen=True)
class _Base:
    """What is tilted: log weights [N] that sum to 1, and each answer's prompt in [0, `n`)."""

    log_weights: Tensor
    prompt: Tensor
    n: int

    @classmethod
    def of(cls, costs: Tensor, log_base: Tensor | None, prompt: Tensor | None) -> "_Base":
        log_base = torch.zeros_like(costs) if log_base is None else log_base.double().flatten()
        of = torch.zeros_like(costs, dtype=torch.long) if prompt is None else prompt.flatten()
        if not len(costs) == len(log_base) == len(of):
            raise InputError("costs, log_base and prompt: expected one entry for each answer")
        of = of.unique(return_inverse=True)[1]
        base = cls(log_base, of, int(of.max()) + 1 if len(of) else 1)
        return cls(base.tilted(torch.zeros_like(costs).unsqueeze(0))[0], of, base.n)

    def tilted(self, logits_SN: Tensor) -> Tensor:
        """Log weights [S, N] of the base tilted, each prompt's summing to 1 / n."""
        logits = self.log_weights + logits_SN
        index = self.prompt.expand_as(logits)
        top = logits.new_full((len(logits), self.n), -torch.inf)
        top = top.scatter_reduce(1, index, logits, "amax")
        shifted = logits - top.gather(1, index)
        total = torch.zeros_like(top).scatter_add(1, index, shifted.exp())
        return shifted - (total.log() + torch.tensor(float(self.n)).double().log()).gather(1, index)

    def kl(self, log_w_SN: Tensor) -> Tensor:
        """Mean over prompts of the divergence from the base [S], in nats."""
        w = log_w_SN.exp()
        return (w * (log_w_SN - self.log_weights)).where(w > 0, 0.0).sum(-1)

    def effective(self, weights: Tensor) -> float:
        """Mean over prompts of `(sum w)^2 / sum w^2`."""
        squares = torch.zeros(self.n, dtype=torch.float64).index_add(
            0, self.prompt, (weights * self.n).square()
        )
        return float((1 / squares).mean())
