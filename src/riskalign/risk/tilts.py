"""Tilts of sampled answers by a tail cost, and the search for the best of them.

Shape legend: N answers, K distinct costs among them, S tilts at once.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from riskalign.errors import InputError
from riskalign.risk.answers import TailCost, distribution, slopes, tail_cost
from riskalign.risk.registry import Risk

_ROUNDS = 200  # far more than any descent takes
_KEPT = 8  # descents at once
_WINDOW = 16  # costs on either side of an end to which its tail cost is moved
_STRONGEST = 1e4  # nats between the costs that are charged least and most
_HALVINGS = 40
_BLOCK = 1 << 21  # numbers of a table of tilts


@dataclass(frozen=True)
class Base:
    """What is tilted: log weights [N] that sum to 1, and each answer's prompt in [0, `n`)."""

    log_weights: Tensor
    prompt: Tensor
    n: int

    @classmethod
    def of(cls, costs: Tensor, log_base: Tensor | None, prompt: Tensor | None) -> "Base":
        """Normalised within each prompt; raises `InputError` where lengths differ."""
        log_base = torch.zeros_like(costs) if log_base is None else log_base.double().flatten()
        prompt = torch.zeros_like(costs) if prompt is None else prompt.flatten()
        if not len(costs) == len(log_base) == len(prompt):
            raise InputError("costs, log_base and prompt: expected one entry for each answer")
        if not bool(log_base.isfinite().all()):
            raise InputError("log_base: expected a finite log weight for each answer")
        prompts, place = prompt.unique(return_inverse=True)
        base = cls(log_base, place, max(1, len(prompts)))
        return replace(base, log_weights=base.tilted(torch.zeros_like(costs).unsqueeze(0))[0])

    def tilted(self, logits_SN: Tensor) -> Tensor:
        """Log weights [S, N] of the base tilted, each prompt's summing to 1 / n."""
        logits = self.log_weights + logits_SN
        if self.n == 1:
            return logits.log_softmax(-1)
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


class Within(NamedTuple):
    """The tilt [N] of least KL that keeps a limit: by which move and strength."""

    rank: int
    strength: float
    log_w: Tensor
    kl: float


@dataclass(frozen=True)
class Tilts:
    """The problem `min_w strength * risk + KL(w || base)` over tilts by tail costs."""

    costs: Tensor
    distinct: Tensor
    place: Tensor
    risk: Risk
    strength: float
    base: Base

    @classmethod
    def of(cls, costs: Tensor, risk: Risk, strength: float, base: Base) -> "Tilts":
        """Of costs [N] in float64."""
        distinct, _ = distribution(costs)
        return cls(costs, distinct, torch.searchsorted(distinct, costs), risk, strength, base)

    def log_probs(self, weights_SN: Tensor) -> Tensor:
        """Log probabilities [S, K] of the distinct costs."""
        empty = weights_SN.new_zeros(len(weights_SN), len(self.distinct))
        return empty.index_add(1, self.place, weights_SN).clamp(min=0).log()

    def tilted(self, charges_SK: Tensor) -> Tensor:
        """Log weights [S, N] of the base tilted by charges for each distinct cost."""
        return self.base.tilted(-self.strength * charges_SK[:, self.place])

    def value(self, log_w_SN: Tensor) -> Tensor:
        """The costs' risk [S]."""
        losses = self.distinct.expand(len(log_w_SN), -1)
        return self.risk(losses, self.log_probs(log_w_SN.exp())).value

    def objective(self, log_w_SN: Tensor) -> Tensor:
        """What is minimised [S]."""
        return self.strength * self.value(log_w_SN) + self.base.kl(log_w_SN)

    def moved(self, phi: TailCost, ranks: Tensor) -> Tensor:
        """Tilts [S, N] by `phi` moved along the costs, its bend to each of the costs at `ranks`."""
        shifts = self.distinct[ranks] - phi.bend
        return self.tilted(phi(self.distinct - shifts.unsqueeze(1)))

    def within(self, phi: TailCost, ranks: Tensor, limit: float) -> Within | None:
        """Of `phi` moved to the costs at `ranks`, each as weak as a risk of `limit` allows.

        None where none of them keeps it. `strength` plays no part.
        """
        best: Within | None = None
        for some in self._blocks(ranks):
            shifts = self.distinct[some] - phi.bend
            charges = phi(self.distinct - shifts.unsqueeze(1))
            charges = charges - charges[:, :1]
            spread = charges[:, -1].clamp(min=1e-12)
            high, low = _STRONGEST / spread, 1e-6 / spread

            def tilted(strength: Tensor, charges: Tensor = charges) -> Tensor:
                return self.base.tilted(-(strength.unsqueeze(1) * charges)[:, self.place])

            least = self.value(tilted(high))
            for _ in range(_HALVINGS):
                middle = (low * high).sqrt()
                keeps = self.value(tilted(middle)) <= limit
                low, high = torch.where(keeps, low, middle), torch.where(keeps, middle, high)
            log_w = tilted(high)
            kept = (least <= limit) & (self.value(log_w) <= limit)
            kl = torch.where(kept, self.base.kl(log_w), torch.inf)
            i = int(kl.argmin())
            if bool(kl[i].isfinite()) and (best is None or float(kl[i]) < best.kl):
                best = Within(int(some[i]), float(high[i]), log_w[i], float(kl[i]))
        return best

    def _best_moves(self, phi: TailCost, ranks: Tensor) -> Tensor:
        """The ranks [at most 8] to which `phi` is best moved, best first."""
        values = [self.objective(self.moved(phi, some)) for some in self._blocks(ranks)]
        return ranks[torch.cat(values).argsort()[:_KEPT]]

    def _blocks(self, ranks: Tensor) -> Any:
        return ranks.split(max(1, _BLOCK // max(len(self.costs), len(self.distinct))))

    def scanned(self, phi: TailCost, starts: int) -> Tensor:
        """The best tilts [at most 8, N] by `phi` moved to every cost, or to ever closer ones.

        With at most `starts` distinct costs all are tried; otherwise `starts` of them, then those
        around the best, until they are neighbours.
        """
        last = len(self.distinct) - 1
        stride = -(-(last + 1) // starts)
        best = self._best_moves(phi, torch.arange(0, last + 1, stride))
        while stride > 1:
            finer = max(1, stride // 8)
            reach = torch.arange(-stride, stride + 1, finer)
            best = self._best_moves(phi, (best[:, None] + reach).clamp(0, last).unique())
            stride = finer
        return self.moved(phi, best)

    def around(self, weights: Tensor) -> Tensor:
        """The best tilts by the tail cost of `weights` [N] moved to the costs around its bend."""
        phi = tail_cost(self.costs, self.risk, weights)
        at = int(torch.searchsorted(self.distinct, phi.bend))
        reach = torch.arange(at - _WINDOW, at + _WINDOW + 1).clamp(0, len(self.distinct) - 1)
        return self.moved(phi, self._best_moves(phi, reach.unique()))

    def descended(self, log_w_SN: Tensor) -> tuple[float, Tensor]:
        """Tilt by the own tail cost again and again; the least objective and its tilt [N]."""
        kept, least = log_w_SN, self.objective(log_w_SN)
        for _ in range(_ROUNDS):
            inner, _, _ = slopes(self.distinct, self.log_probs(kept.exp()), self.risk)
            rises = (inner * self.distinct.diff()).cumsum(-1)
            log_w = self.tilted(torch.cat([rises.new_zeros(len(rises), 1), rises], dim=-1))
            value = self.objective(log_w)
            better = value < least - 1e-13 * (1 + value.abs())
            if not bool(better.any()):
                break
            # Only those go on that moved; where they were is kept if it was the best of all.
            first = int(least.argmin())
            go_on = better | (torch.arange(len(least)) == first)
            kept = torch.where(better.unsqueeze(1), log_w, kept)[go_on]
            least = torch.where(better, value, least)[go_on]
        best = int(least.argmin())
        return float(least[best]), kept[best]
