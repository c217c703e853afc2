"""The multiplier of the cost constraint, learnt on a logarithmic scale."""

import math


def next_log_multiplier(
    log_lambda: float, mean_cost: float, threshold: float, lr: float, lambda_max: float
) -> float:
    """One step of ascent: `log λ + lr λ (mean cost - threshold)`, at most `log lambda_max`.

    It is gradient ascent on `λ (E[cost] - threshold)` in `log λ`: the multiplier rises while the
    measured mean cost is above the threshold and falls while it is below, and it stays positive.

    By hand: `λ = 1`, cost 3, threshold 1, lr 0.1 give `log λ = 0.2`.

    Source: Safe RLHF (arXiv 2310.12773), section 3.3 and its appendix (`ln λ + α λ J_C`).
    """
    ascended = log_lambda + lr * math.exp(log_lambda) * (mean_cost - threshold)
    return min(ascended, math.log(lambda_max))
