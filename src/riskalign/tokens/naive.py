"""The statistics that every loss needs of one response token, and their plain computation.

It takes the whole vocabulary at once and is the oracle for the chunked version.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from riskalign.risk import Risk
from riskalign.tokens.head import Head


class TokenStats(NamedTuple):
    """Policy against reference at each of N response tokens; each field is [N], in nats.

    `logp_policy` and `logp_ref` are the label's log probabilities, `kl` is
    `KL(reference || policy)`, `risk` the risk of `log reference - log policy` under the
    reference, `entropy` the policy's. Only `logp_policy` and `risk` carry gradients.
    """

    logp_policy: Tensor
    logp_ref: Tensor
    kl: Tensor
    risk: Tensor
    entropy: Tensor


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
    value, density = risk(losses.detach(), log_ref)
    # The worst-case density is the gradient with respect to the losses; the loss's own value is
    # put back so that the result is the risk and not only its tangent.
    finite = losses.masked_fill(log_ref.isneginf(), 0.0)
    tangent = (density * finite).sum(-1)
    label = labels.unsqueeze(-1)
    seen = log_policy.detach().masked_fill(log_policy.isneginf(), 0.0)
    return TokenStats(
        logp_policy=log_policy.gather(-1, label).squeeze(-1),
        logp_ref=log_ref.gather(-1, label).squeeze(-1),
        kl=(log_ref.exp() * finite.detach()).sum(-1),
        risk=tangent + (value - tangent).detach(),
        entropy=-(seen.exp() * seen).sum(-1),
    )
