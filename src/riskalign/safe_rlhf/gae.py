"""Generalised advantage estimation over answers of uneven length.

Shapes: S answers, T tokens of the longest; `mask` [S, T] is True where an answer has a token, and
every other tensor is 0 where it is False.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Advantages(NamedTuple):
    """Advantages [S, T] of the tokens, and returns [S, T]: what the values should have been."""

    advantages: Tensor
    returns: Tensor


def estimate_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> Advantages:
    """`A_t = sum_k (gamma lam)^k delta_{t+k}`, `delta_t = r_t + gamma V_{t+1} - V_t`.

    `rewards` [S, T] are paid for each token and `values` [S, T] are those of the states before it.
    After an answer's last token nothing is paid any more, so its next value is 0, whether the
    answer ended or was cut. Returns are `A + V`.

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
    return Advantages(advantages * mask, (advantages + values) * mask)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over the tokens that count; 0 elsewhere: [S, T].

    By hand: (1, 3) and padding become (-1, 1) and 0.
    """
    own = values[mask]
    scale = own.std(correction=0).clamp_min(1e-8)
    return (values - own.mean()) / scale * mask


def explained_variance(returns: Tensor, values: Tensor, mask: Tensor) -> float:
    """`1 - Var(returns - values) / Var(returns)` over the tokens that count.

    1 for a perfect critic, 0 for a constant one. NaN-free: 0 where the returns do not vary.
    """
    own, error = returns[mask], (returns - values)[mask]
    variance = float(own.var(correction=0))
    return 0.0 if variance < 1e-12 else 1.0 - float(error.var(correction=0)) / variance
