"""The mathematics of PPO-Lagrangian: multiplier, rewards of tokens, advantages, losses.

Losses are unreduced, [N] in and [N] out, for N answer tokens. Of advantages: S answers, T tokens of
the longest; `mask` [S, T] is True where an answer has a token, and every other tensor is 0 where it
is False.

Source: Safe RLHF (arXiv 2310.12773), section 3.3, and PPO (arXiv 1707.06347), equation 7.
"""

import math

import torch
from torch import Tensor


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


def token_rewards(logp: Tensor, ref_logp: Tensor, final: Tensor, kl_coef: float) -> Tensor:
    """What each token is paid: `-kl_coef (log π - log π_ref)`, and `final` where that is not 0.

    All [S, T]. `final` holds each answer's score at its last token and 0 elsewhere.

    By hand: log ratios (0.5, -1), score 2, `kl_coef` 0.1 give (-0.05, 2.1).
    """
    return final - kl_coef * (logp - ref_logp)


def at_last_token(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores [S] of answers at their last tokens, 0 elsewhere: [S, T]."""
    last = mask.sum(-1, keepdim=True) - 1
    return torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device).scatter(
        1, last, scores.unsqueeze(-1)
    )


def estimate_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Advantages and returns [S, T]: `A_t = sum_k (gamma lam)^k delta_{t+k}`, and `A + V`.

    `delta_t = r_t + gamma V_{t+1} - V_t`.

    `rewards` [S, T] are paid for each token and `values` [S, T] are those of the states before it.
    After an answer's last token nothing is paid any more, so its next value is 0, whether the
    answer ended or was cut. Returns are what the values should have been.

    By hand: rewards (0, 1), values (0.5, 0.25), gamma 1, lam 0.5 give delta (-0.25, 0.75),
    advantages (0.125, 0.75) and returns (0.625, 1).

    Source: Schulman et al. (arXiv 1506.02438), equation 16.
    """
    rewards, values = rewards * mask, values * mask
    following = torch.cat((values[:, 1:], torch.zeros_like(values[:, :1])), dim=1)
    delta = rewards + gamma * following - values
    advantages = torch.zeros_like(delta)
    ahead = torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        ahead = delta[:, t] + gamma * lam * ahead
        advantages[:, t] = ahead
    return advantages * mask, (advantages + values) * mask


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over the tokens that count; 0 elsewhere: [S, T].

    By hand: (1, 3) and padding become (-1, 1) and 0.
    """
    counted = values[mask]
    scale = counted.std(correction=0).clamp_min(1e-8)
    return (values - counted.mean()) / scale * mask


def explained_variance(returns: Tensor, values: Tensor, mask: Tensor) -> float:
    """`1 - Var(returns - values) / Var(returns)` over the tokens that count.

    1 for a perfect critic, 0 for a constant one. NaN-free: 0 where the returns do not vary.
    """
    error = (returns - values)[mask]
    variance = float(returns[mask].var(correction=0))
    return 0.0 if variance < 1e-12 else 1.0 - float(error.var(correction=0)) / variance


def combine_advantages(reward: Tensor, cost: Tensor, lambda_: float) -> Tensor:
    """`(A_r - λ A_c) / (1 + λ)`: the Lagrangian's advantage, scaled to stay of one size as λ grows.

    By hand: advantages 2 and 1 with `λ = 3` give -0.25.
    """
    return (reward - lambda_ * cost) / (1.0 + lambda_)


def clipped_policy_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, cliprange: float
) -> tuple[Tensor, Tensor]:
    """`-min(ratio A, clip(ratio, 1 - cliprange, 1 + cliprange) A)` and where clipping bit.

    `ratio = exp(logp - old_logp)`. Only `logp` is to carry a gradient.

    By hand: ratio 1.5, advantage 2, clip range 0.2 give -2.4 and True; advantage -2 gives 3 and
    False, for a bad token that became likelier is always pushed back.
    """
    ratio = (logp - old_logp).exp()
    plain = ratio * advantages
    clipped = ratio.clamp(1.0 - cliprange, 1.0 + cliprange) * advantages
    return -torch.minimum(plain, clipped), (clipped < plain).detach()


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, cliprange_value: float
) -> Tensor:
    """`max((V - R)^2, (clip(V, V_old ± cliprange_value) - R)^2) / 2`.

    By hand: V 2, V_old 0, R 3, clip range 1 give `max(1, 4) / 2 = 2`.
    """
    near = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())
