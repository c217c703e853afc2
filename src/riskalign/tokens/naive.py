"""Token statistics over the whole vocabulary at once: the oracle for the chunked version."""

import torch
from torch import Tensor

from riskalign.risk import Risk
from riskalign.tokens.head import Head
from riskalign.tokens.stats import TokenStats


def token_stats_naive(
    hidden_policy: Tensor,
    head_policy: Head,
    hidden_ref: Tensor,
    head_ref: Head,
    labels: Tensor,
    risk: Risk,
    *,
    chunk_size: int | None = None,
) -> TokenStats:
    """Same as `token_stats`, with every [N, V] tensor held and torch's own differentiation.

    `chunk_size` is accepted and ignored.
    """
    logits_policy = head_policy.logits(hidden_policy)
    with torch.no_grad():
        logits_ref = head_ref.logits(hidden_ref)
    at_least = torch.promote_types(logits_policy.dtype, torch.float32)
    log_policy = logits_policy.to(at_least).log_softmax(-1)
    log_ref = logits_ref.to(at_least).log_softmax(-1)
    losses = log_ref - log_policy
    possible = ~torch.isneginf(log_ref)
    value, density = risk(losses.detach(), log_ref)
    # The worst-case density is the gradient with respect to the losses; the loss's own value is
    # put back so that the result is the risk and not only its tangent.
    tangent = (density * losses.where(possible, torch.zeros_like(losses))).sum(-1)
    label = labels.unsqueeze(-1)
    with torch.no_grad():
        kl = (log_ref.exp() * losses.where(possible, torch.zeros_like(losses))).sum(-1)
        seen = ~torch.isneginf(log_policy)
        entropy = -(log_policy.exp() * log_policy.where(seen, torch.zeros_like(losses))).sum(-1)
    return TokenStats(
        logp_policy=log_policy.gather(-1, label).squeeze(-1),
        logp_ref=log_ref.gather(-1, label).squeeze(-1),
        kl=kl,
        risk=tangent + (value - tangent).detach(),
        entropy=entropy,
    )
