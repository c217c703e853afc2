"""Sums of token statistics over each response, a pair's margin, and the margin's loss."""

from typing import NamedTuple

from torch import Tensor, ones_like
from torch.nn.functional import logsigmoid

from riskalign.errors import InputError
from riskalign.tokens import TokenStats

#: Targets that a margin equal to the gap is the best of.
FITTED = ("hard", "soft", "gap")
TARGETS = (*FITTED, "offset")
#: Targets that ask for an order, of which answers of equal scores have none.
ORDERED = frozenset({"hard", "offset"})


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
    per_token = (*stats, ones_like(stats.logp_ref))
    return SequenceStats(*(v.new_zeros(n_sequences).index_add(0, sequence, v) for v in per_token))


def margin_loss(
    margin: Tensor,
    target: str = "hard",
    *,
    gap: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Loss [B] of margins [B] under one of four targets.

    - "hard": `-log sigmoid(m)`, mixed with the flipped label by `label_smoothing` (the
      conservative DPO of Mitchell, 2023); only the order is known.
    - "soft": cross-entropy of `sigmoid(m)` against `sigmoid(gap)`, the Bradley-Terry
      probability of the order.
    - "gap": `(m - gap)^2`, as IPO (arXiv 2310.12036) and REBEL (arXiv 2404.16767) regress.
    - "offset": `-log sigmoid(m - gap)`, as ODPO (arXiv 2402.10571), and SafeDPO (arXiv 2505.20065)
      where the gap is its `Delta` times the difference of safety labels (`data/safety.py`): the
      order alone, by at least so much.

    `gap` [B] is the chosen return minus the rejected one, in the margin's units. Where labels
    are drawn with probability `sigmoid(gap)` the first three have their minimum at `m = gap`;
    "offset" at a gap of 0 is "hard".

    Raises `InputError` for an unknown target, a `gap` missing for a target other than "hard", or a
    `label_smoothing` outside [0, 0.5) or used with a target other than "hard".

    By hand: `m = 0` costs `log 2` under "hard"; `m = log 3`, `gap = 0` costs
    `-(log 3/4 + log 1/4)/2` under "soft" and `(log 3)^2` under "gap"; `m = log 6`, `gap = log 2`
    costs `-log 3/4` under "offset".
    """
    if target not in TARGETS:
        raise InputError(f"target {target!r} is not known; choose one of {', '.join(TARGETS)}")
    if not 0.0 <= label_smoothing < 0.5:
        raise InputError(f"label_smoothing must lie in [0, 0.5), not {label_smoothing}")
    if target == "hard":
        if label_smoothing == 0.0:
            return -logsigmoid(margin)
        return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    if label_smoothing != 0.0:
        raise InputError(
            f"label_smoothing goes with target 'hard' only; target {target!r} already has its "
            "probabilities from the gap, so set label_smoothing to 0"
        )
    if gap is None:
        raise InputError(
            f"target {target!r} needs the gap of each pair's scores; give the data the columns "
            "score_chosen and score_rejected, or use target 'hard'"
        )
    if target == "gap":
        return (margin - gap).square()
    if target == "offset":
        return -logsigmoid(margin - gap)
    return -gap.sigmoid() * logsigmoid(margin) - (-gap).sigmoid() * logsigmoid(-margin)
