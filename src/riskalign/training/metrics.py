"""Averages of per-pair metrics since they were last asked for."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class MetricSums:
    """Sums per-pair metrics on their device; nothing waits for it until `averages`.

    NaN stands for a value that a pair does not have, and counts for nothing.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add metrics of B pairs, each [B]."""
        for name, values in metrics.items():
            known = ~values.isnan()
            total = torch.stack((values.detach().double().nansum(), known.sum().double()))
            self._sums[name] = self._sums[name] + total if name in self._sums else total

    def averages(self, add_up: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Averages since the last call; `add_up` sums a tensor over processes.

        A metric of which no value is known has none.
        """
        if not self._sums:
            return {}
        names = sorted(self._sums)
        totals = torch.stack([self._sums[name] for name in names])
        if add_up is not None:
            totals = add_up(totals)
        self._sums = {}
        pairs = zip(names, totals.tolist(), strict=True)
        return {name: total / n for name, (total, n) in pairs if n}
