"""Losses of PPO-Lagrangian; all unreduced, [N] in and [N] out, for N answer tokens.

Source: PPO (arXiv 1707.06347), equation 7, and Safe RLHF (arXiv 2310.12773), section 3.3.
"""

import torch
from torch import Tensor


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


def ptx_loss(logp: Tensor) -> Tensor:
    """Negative log-likelihood in nats of given answers' tokens: InstructGPT's pretraining term.

    Source: Ouyang et al. (arXiv 2203.02155), equation 2.
    """
    return -logp


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
