"""Sums of token statistics over each response, and what losses make of them."""

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


class Margin(NamedTuple):
    """The margin of each of B pairs, for `margin_loss`, and both sides' implicit rewards; [B]."""

    margin: Tensor
    reward_chosen: Tensor
    reward_rejected: Tensor


class LossOutput(NamedTuple):
    """A loss for each of B pairs, unreduced, and its metrics, each [B] and detached."""

    loss: Tensor
    metrics: dict[str, Tensor]


def sum_by_sequence(stats: TokenStats, sequence: Tensor, n_sequences: int) -> SequenceStats:
    """Add up each response's tokens.

    Shapes: `stats` fields [N]; `sequence` [N], integers in [0, n_sequences): the sequence that
    each token belongs to, in any order. A sequence without tokens sums to zero.
    """
    per_token = (*stats, torch.ones_like(stats.logp_ref))
    return SequenceStats(*(v.new_zeros(n_sequences).index_add(0, sequence, v) for v in per_token))
