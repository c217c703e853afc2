"""Averages over pairs, not over batches."""

import torch

from riskalign.training.rows import MetricSums


def test_averages_weigh_pairs_and_start_again() -> None:
    sums = MetricSums()
    sums.add({"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([0.0, 0.0, 3.0])})
    sums.add({"a": torch.tensor([6.0]), "b": torch.tensor([1.0])})
    assert sums.averages() == {"a": 3.0, "b": 1.0}
    assert sums.averages() == {}
    sums.add({"a": torch.tensor([5.0]), "b": torch.tensor([2.0])})
    assert sums.averages(lambda totals: totals * 2) == {"a": 5.0, "b": 2.0}
