"""Summed statistics for the losses' tests."""

import torch

from riskalign.losses import SequenceStats


def make_stats(
    logp_policy: list[float],
    logp_ref: list[float],
    risk: list[float],
    kl: list[float] | None = None,
) -> SequenceStats:
    """Statistics of given sums in float64; `kl` is the risk unless given."""
    columns = [logp_policy, logp_ref, risk if kl is None else kl, risk, risk]
    tensors = [torch.tensor(column, dtype=torch.float64) for column in columns]
    tensors.append(torch.full_like(tensors[0], 3.0))
    return SequenceStats(*tensors)


def by_hand() -> tuple[SequenceStats, SequenceStats]:
    """One pair: log ratios 2 and -2, SRR (and KL) 1 and 3."""
    return make_stats([-1.0], [-3.0], [1.0]), make_stats([-6.0], [-4.0], [3.0])


def random_pairs(pairs: int = 6, seed: int = 0) -> tuple[SequenceStats, SequenceStats]:
    """Random pairs; the risk is not the KL."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> SequenceStats:
        values = torch.randn(6, pairs, generator=generator, dtype=torch.float64)
        values[2:] = values[2:].abs()
        return SequenceStats(*values)

    return draw(), draw()


def with_kl_as_risk(stats: SequenceStats) -> SequenceStats:
    """The same statistics under the risk "mean"."""
    return stats._replace(risk=stats.kl)
