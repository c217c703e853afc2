"""Sums of token statistics over each response, and what every pair loss returns."""

from typing import NamedTuple

import torch
from torch import Tensor

from riskalign.tokens import TokenStats


class SequenceStats(NamedTuple):
    """Sums over the response tokens of B sequences; each field is [B], in nats.

    `risk` is the sequential risk ratio (SRR) of RSA (arXiv 2512.24263), `length` the number of
    response tokens.
    """

    logp_policy: Tensor
    logp_ref: Tensor
    kl: Tensor
    risk: Tensor
    entropy: Tensor
    length: Tensor


class LossOutput(NamedTuple):
    """A loss for each of B pairs, unreduced, and its metrics, each [B] and detached."""

    loss: Tensor
    metrics: dict[str, Tensor]


def sum_by_sequence(stats: TokenStats, sequence: Tensor, n_sequences: int) -> SequenceStats:
    """Add up each response's tokens.

    Shapes: `stats` fields [N]; `sequence` [N], integers in [0, n_sequences): the sequence that
    each token belongs to, in any order. A sequence without tokens sums to zero.
    """

    def total(values_N: Tensor) -> Tensor:
        return values_N.new_zeros(n_sequences).index_add(0, sequence, values_N)

    return SequenceStats(
        logp_policy=total(stats.logp_policy),
        logp_ref=total(stats.logp_ref),
        kl=total(stats.kl),
        risk=total(stats.risk),
        entropy=total(stats.entropy),
        length=total(torch.ones_like(stats.logp_ref)),
    )


def pair_metrics(
    chosen: SequenceStats,
    rejected: SequenceStats,
    *,
    reward_chosen: Tensor,
    reward_rejected: Tensor,
    margin: Tensor,
) -> dict[str, Tensor]:
    """The metrics [B] that every pair loss logs, under TRL's names where TRL has one."""
    metrics = {
        "rewards/chosen": reward_chosen,
        "rewards/rejected": reward_rejected,
        "rewards/margins": reward_chosen - reward_rejected,
        "rewards/accuracies": (reward_chosen > reward_rejected).to(margin.dtype),
        "logps/chosen": chosen.logp_policy,
        "logps/rejected": rejected.logp_policy,
        "risk/chosen": chosen.risk,
        "risk/rejected": rejected.risk,
        "kl/chosen": chosen.kl,
        "kl/rejected": rejected.kl,
        "margin": margin,
    }
    return {name: value.detach() for name, value in metrics.items()}
