"""Pair losses on summed token statistics: DPO, TDPO and RSA, one paper a file."""

from riskalign.losses.registry import LOSSES, pair_loss
from riskalign.losses.sequence import LossOutput, SequenceStats, sum_by_sequence
from riskalign.losses.targets import TARGETS, margin_loss

__all__ = [
    "LOSSES",
    "TARGETS",
    "LossOutput",
    "SequenceStats",
    "margin_loss",
    "pair_loss",
    "sum_by_sequence",
]
