"""Token-level Direct Preference Optimization (TDPO, arXiv 2404.11999).

The sequential KL `D(y) = sum_t KL(reference(.|s_t) || policy(.|s_t))` corrects DPO's margin. It
is read from the statistics' `risk`, which carries gradients, and so needs the risk "mean".
"""

from torch import Tensor

from riskalign.errors import InputError
from riskalign.losses.dpo import log_ratio
from riskalign.losses.sequence import LossOutput, SequenceStats, pair_metrics
from riskalign.losses.targets import margin_loss


def tdpo1(
    chosen: SequenceStats,
    rejected: SequenceStats,
    *,
    beta: float,
    target: str = "hard",
    gap: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> LossOutput:
    """TDPO1: margin `u - beta * (D(rejected) - D(chosen))`, `u` being DPO's margin.

    Raises `InputError` where `risk` is not the KL.

    By hand: `beta = 0.5`, log ratios 2 and -2, KL 1 and 3 give `2 - 0.5 * 2 = 1`.
    """
    kl_chosen, kl_rejected = _sequential_kl(chosen), _sequential_kl(rejected)
    u = beta * (log_ratio(chosen) - log_ratio(rejected))
    margin = u - beta * (kl_rejected - kl_chosen)
    loss = margin_loss(margin, target, gap=gap, label_smoothing=label_smoothing)
    return LossOutput(loss, _metrics(chosen, rejected, beta, margin))


def tdpo2(
    chosen: SequenceStats,
    rejected: SequenceStats,
    *,
    beta: float,
    alpha: float = 0.5,
    target: str = "hard",
    gap: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> LossOutput:
    """TDPO2: margin `u - alpha * beta * (D(rejected) - stopgrad(D(chosen)))`.

    Raises `InputError` where `risk` is not the KL.

    By hand: `beta = 0.5`, `alpha = 0.5`, log ratios 2 and -2, KL 1 and 3 give
    `2 - 0.25 * 2 = 1.5`.
    """
    kl_chosen, kl_rejected = _sequential_kl(chosen), _sequential_kl(rejected)
    u = beta * (log_ratio(chosen) - log_ratio(rejected))
    margin = u - alpha * beta * (kl_rejected - kl_chosen.detach())
    loss = margin_loss(margin, target, gap=gap, label_smoothing=label_smoothing)
    return LossOutput(loss, _metrics(chosen, rejected, beta, margin))


def _sequential_kl(stats: SequenceStats) -> Tensor:
    """The differentiable sequential KL [B]; `InputError` if `risk` is another measure."""
    scale = stats.kl.detach().abs() + 1.0
    if bool(((stats.risk.detach() - stats.kl.detach()).abs() > 1e-3 * scale).any()):
        raise InputError("TDPO's correction is the KL: use the risk 'mean', or the loss 'rsa1'")
    return stats.risk


def _metrics(
    chosen: SequenceStats, rejected: SequenceStats, beta: float, margin: Tensor
) -> dict[str, Tensor]:
    """Metrics with the implicit reward `beta * (log ratio + D)`."""
    return pair_metrics(
        chosen,
        rejected,
        reward_chosen=beta * (log_ratio(chosen) + chosen.risk),
        reward_rejected=beta * (log_ratio(rejected) + rejected.risk),
        margin=margin,
    )
