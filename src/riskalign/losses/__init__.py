"""Losses on summed token statistics: DPO, TDPO and RSA on pairs, KTO; one family a file."""

from riskalign.losses.kto import kto, reference_point
from riskalign.losses.registry import LOSSES, UNPAIRED, check_options, own_parameters, pair_loss
from riskalign.losses.sequence import LossOutput, Margin, SequenceStats, sum_by_sequence
from riskalign.losses.targets import FITTED, ORDERED, TARGETS, margin_loss

__all__ = [
    "FITTED",
    "LOSSES",
    "ORDERED",
    "TARGETS",
    "UNPAIRED",
    "LossOutput",
    "Margin",
    "SequenceStats",
    "check_options",
    "kto",
    "margin_loss",
    "own_parameters",
    "pair_loss",
    "reference_point",
    "sum_by_sequence",
]
