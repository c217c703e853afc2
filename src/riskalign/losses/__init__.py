"""Losses on summed token statistics: DPO, TDPO and RSA on pairs, KTO; one family a file."""

from riskalign.losses.kto import kto, reference_point
from riskalign.losses.registry import LOSSES, UNPAIRED, check_options, own_parameters, pair_loss
from riskalign.losses.sequence import (
    FITTED,
    ORDERED,
    TARGETS,
    LossOutput,
    Margin,
    SequenceStats,
    margin_loss,
    sum_by_sequence,
)

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
