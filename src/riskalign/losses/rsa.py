"""The two losses of RSA (arXiv 2512.24263), first given by Ra-DPO (arXiv 2505.20359)."""

from torch import Tensor

from riskalign.losses.dpo import log_ratio
from riskalign.losses.sequence import LossOutput, SequenceStats, pair_metrics
from riskalign.losses.targets import margin_loss


def rsa1(
    chosen: SequenceStats,
    rejected: SequenceStats,
    *,
    beta: float,
    target: str = "hard",
    gap: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> LossOutput:
    """Variant 1: margin `u - beta * (SRR(rejected) - SRR(chosen))`, `u` being DPO's margin.

    Its population minimiser is the closed form of docs/method.md. With the mean as risk it is
    TDPO1.

    By hand: `beta = 0.5`, log ratios 2 and -2, SRR 1 and 3 give `2 - 0.5 * 2 = 1`.
    """
    margin = beta * (log_ratio(chosen) - log_ratio(rejected) - (rejected.risk - chosen.risk))
    loss = margin_loss(margin, target, gap=gap, label_smoothing=label_smoothing)
    return LossOutput(loss, _metrics(chosen, rejected, beta, margin))


def rsa2(
    chosen: SequenceStats,
    rejected: SequenceStats,
    *,
    beta: float,
    alpha: float = 0.5,
    target: str = "hard",
    gap: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> LossOutput:
    """Variant 2: margin `u - alpha * beta * (SRR(rejected) - stopgrad(SRR(chosen)))`.

    No gradient passes through the chosen side's SRR. With the mean as risk it is TDPO2, with
    `alpha = 0` it is DPO.

    By hand: `beta = 0.5`, `alpha = 0.5`, log ratios 2 and -2, SRR 1 and 3 give
    `2 - 0.25 * 2 = 1.5`.
    """
    margin = beta * (
        log_ratio(chosen) - log_ratio(rejected) - alpha * (rejected.risk - chosen.risk.detach())
    )
    loss = margin_loss(margin, target, gap=gap, label_smoothing=label_smoothing)
    return LossOutput(loss, _metrics(chosen, rejected, beta, margin))


def _metrics(
    chosen: SequenceStats, rejected: SequenceStats, beta: float, margin: Tensor
) -> dict[str, Tensor]:
    """Metrics with the implicit reward `beta * (log ratio + SRR)` of both variants."""
    return pair_metrics(
        chosen,
        rejected,
        reward_chosen=beta * (log_ratio(chosen) + chosen.risk),
        reward_rejected=beta * (log_ratio(rejected) + rejected.risk),
        margin=margin,
    )
