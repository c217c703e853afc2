"""Log probabilities of answer tokens, by one forward pass for sampling, reference and training.

PPO's ratio of new to old probabilities is 1 at the first step only where both come from the same
computation. What `generate` knows comes from another one (a cache, other batch shapes).

Shapes: N answer tokens, C tokens of one chunk, H hidden, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from riskalign.scorers.batch import Batch, states_before
from riskalign.tokens import Head, backbone_of, head_of

# Logits held at a time; a chunk's are computed again in the backward pass.
_CHUNK_ELEMENTS = 16 << 20


class TokenLogps(NamedTuple):
    """Of each answer token [N], in nats; `entropy`, of the distribution it is from, or empty."""

    logp: Tensor
    entropy: Tensor


def token_logps(model: nn.Module, batch: Batch, *, entropy: bool = False) -> TokenLogps:
    """Log probabilities of a batch's answer tokens under a causal model, at temperature 1.

    `logp` carries a gradient where torch records one; `entropy` never does. Only the answers'
    logits are computed, and only a chunk of them is held.
    """
    hidden, head = states_before(backbone_of(model), batch), head_of(model)
    size = max(1, _CHUNK_ELEMENTS // head.weight.shape[0])
    parts = [
        _in_chunk(hidden[at : at + size], head, batch["target_ids"][at : at + size], entropy)
        for at in range(0, len(hidden), size)
    ]
    return TokenLogps(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _in_chunk(hidden: Tensor, head: Head, labels: Tensor, entropy: bool) -> tuple[Tensor, Tensor]:
    if torch.is_grad_enabled():
        found: tuple[Tensor, Tensor] = checkpoint(
            _chunk, hidden, head, labels, entropy, use_reentrant=False, preserve_rng_state=False
        )
        return found
    return _chunk(hidden, head, labels, entropy)


def _chunk(hidden: Tensor, head: Head, labels: Tensor, entropy: bool) -> tuple[Tensor, Tensor]:
    logits = head.logits(hidden)
    at_least = torch.promote_types(logits.dtype, torch.float32)
    log_probs = logits.to(at_least).log_softmax(-1)
    logp = log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    if not entropy:
        return logp, logp.new_empty(0)
    with torch.no_grad():
        terms = log_probs.exp() * log_probs
        return logp, -terms.nan_to_num(nan=0.0).sum(-1)  # 0 log 0 counts for nothing
