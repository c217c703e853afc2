"""Direct Preference Optimization (DPO, arXiv 2305.18290)."""

from torch import Tensor

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
