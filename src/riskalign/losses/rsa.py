"""Margins of pairs: DPO's (arXiv 2305.18290), and RSA's and TDPO's, which correct it.

RSA's two losses (arXiv 2512.24263) were first given by Ra-DPO (arXiv 2505.20359). Token-level
Direct Preference Optimization (TDPO, arXiv 2404.11999) corrects the margin by the sequential KL
`D(y) = sum_t KL(reference(.|s_t) || policy(.|s_t))`, which is RSA's sequential risk ratio (SRR)
under the risk "mean".
"""

from torch import Tensor

from riskalign.errors import InputError
from riskalign.losses.sequence import Margin, SequenceStats


def log_ratio(stats: SequenceStats) -> Tensor:
    """`log policy(y) / reference(y)` [B]."""
    return stats.logp_policy - stats.logp_ref


def dpo(chosen: SequenceStats, rejected: SequenceStats, *, beta: float) -> Margin:
    """DPO's equation 7: the margin is `beta` times the difference of the log ratios.

    The implicit reward of a response is `beta * log ratio`.

    By hand: `beta = 0.5`, log ratios 2 and -2 give the margin 2 and the loss `log(1 + e^-2)`.
    """
    reward_chosen = beta * log_ratio(chosen)
    reward_rejected = beta * log_ratio(rejected)
    return Margin(reward_chosen - reward_rejected, reward_chosen, reward_rejected)


def rsa1(chosen: SequenceStats, rejected: SequenceStats, *, beta: float) -> Margin:
    """Variant 1: margin `u - beta * (SRR(rejected) - SRR(chosen))`, `u` being DPO's margin.

    Its population minimiser is the closed form of docs/method.md.

    By hand: `beta = 0.5`, log ratios 2 and -2, SRR 1 and 3 give `2 - 0.5 * 2 = 1`.
    """
    return _corrected(chosen, rejected, beta, rejected.risk - chosen.risk)


def rsa2(
    chosen: SequenceStats, rejected: SequenceStats, *, beta: float, alpha: float = 0.5
) -> Margin:
    """Variant 2: margin `u - alpha * beta * (SRR(rejected) - stopgrad(SRR(chosen)))`.

    No gradient passes through the chosen side's SRR. With `alpha = 0` it is DPO.

    By hand: `beta = 0.5`, `alpha = 0.5`, log ratios 2 and -2, SRR 1 and 3 give
    `2 - 0.25 * 2 = 1.5`.
    """
    return _corrected(chosen, rejected, beta, alpha * (rejected.risk - chosen.risk.detach()))


def tdpo1(chosen: SequenceStats, rejected: SequenceStats, *, beta: float) -> Margin:
    """TDPO1: `rsa1` of the KL. Raises `InputError` where `risk` is another measure."""
    _refuse_other_risks(chosen, rejected)
    return rsa1(chosen, rejected, beta=beta)


def tdpo2(
    chosen: SequenceStats, rejected: SequenceStats, *, beta: float, alpha: float = 0.5
) -> Margin:
    """TDPO2: `rsa2` of the KL. Raises `InputError` where `risk` is another measure."""
    _refuse_other_risks(chosen, rejected)
    return rsa2(chosen, rejected, beta=beta, alpha=alpha)


def _corrected(
    chosen: SequenceStats, rejected: SequenceStats, beta: float, correction: Tensor
) -> Margin:
    """The corrected margin, with the implicit reward `beta * (log ratio + SRR)` of all variants."""
    return Margin(
        beta * (log_ratio(chosen) - log_ratio(rejected) - correction),
        beta * (log_ratio(chosen) + chosen.risk),
        beta * (log_ratio(rejected) + rejected.risk),
    )


def _refuse_other_risks(*responses: SequenceStats) -> None:
    for stats in responses:
        kl = stats.kl.detach()
        if bool(((stats.risk.detach() - kl).abs() > 1e-3 * (kl.abs() + 1.0)).any()):
            raise InputError("TDPO's correction is the KL: use the risk 'mean', or the loss 'rsa1'")
