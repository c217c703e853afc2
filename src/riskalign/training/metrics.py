"""Averages of per-pair metrics since they were last asked for."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class MetricSums:
    """Sums per-pair metrics on their device; nothing waits for it until `averages`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._pairs = 0

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add metrics of B pairs, each [B]."""
        for name, values in metrics.items():
            total = values.detach().double().sum()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._pairs += len(next(iter(metrics.values())))

    def averages(self, add_up: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Averages since the last call; `add_up` sums a tensor over processes."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        first = self._sums[names[0]]
        totals = torch.stack([*(self._sums[name] for name in names), first.new_tensor(self._pairs)])
        if add_up is not None:
            totals = add_up(totals)
        *sums, pairs = totals.tolist()
        self._sums, self._pairs = {}, 0
        return {name: total / pairs for name, total in zip(names, sums, strict=True)}
