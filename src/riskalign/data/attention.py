"""Attention within packed batches (`layout.py`): taken apart into plain rows, and back.

It is registered with transformers under a name of its own and does what `sdpa` does whenever a
call is not packed, so that a model may keep it for good: for generation, for saving, and when
activation checkpointing runs a layer again in the backward pass.

Shapes: T packed tokens, S responses, L tokens of the longest row, A heads, D a head's width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "riskalign_packed"


class _Unpack(torch.autograd.Function):
    """From tokens [T, F] to plain rows [S * L, F].

    index_select's own derivative adds rows up one by one; here all but the shared prompts is a
    plain selection. Nothing that counts ever comes back from padding: a causal row does not look
    at what follows it.
    """

    @staticmethod
    def forward(ctx: Any, flat: Tensor, unpack: Tensor, repack: Tensor, again: Tensor) -> Tensor:
        ctx.save_for_backward(repack, again)
        return flat.index_select(0, unpack.flatten().clamp_min(0))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        repack, again = ctx.saved_tensors
        own = grad.index_select(0, repack)
        own.index_add_(0, again[0], grad.index_select(0, again[1]))
        return own, None, None, None


class _Repack(torch.autograd.Function):
    """From plain rows [S * L, F] to each token's own place among them, [T, F]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, unpack: Tensor, repack: Tensor, again: Tensor) -> Tensor:
        ctx.save_for_backward(unpack, again)
        return rows.index_select(0, repack)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unpack, again = ctx.saved_tensors
        source = unpack.flatten()
        rows = grad.index_select(0, source.clamp_min(0))
        rows.masked_fill_((source < 0).unsqueeze(-1), 0.0)
        rows.index_fill_(0, again[1], 0.0)
        return rows, None, None, None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: tuple[Tensor, Tensor, Tensor] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' `sdpa` attention; with `packing` (`unpack, repack, again`), within its rows.

    query, key, value [1, A, T, D]; returns [1, T, A, D].
    """
    if packing is None:
        found: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
        return found
    n_rows = len(packing[0])

    def rows_of(heads: Tensor) -> Tensor:
        _, a, t, d = heads.shape
        flat = heads.transpose(1, 2).reshape(t, a * d)
        rows: Tensor = _Unpack.apply(flat, *packing)  # type: ignore[no-untyped-call]
        return rows.view(n_rows, -1, a, d).transpose(1, 2)

    kwargs["is_causal"] = True
    rows, _ = sdpa_attention_forward(
        module, rows_of(query), rows_of(key), rows_of(value), None, **kwargs
    )
    _, _, a, d = rows.shape
    tokens: Tensor = _Repack.apply(  # type: ignore[no-untyped-call]
        rows.reshape(-1, a * d), *packing
    )
    return tokens.view(1, -1, a, d), None


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
