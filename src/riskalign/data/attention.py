"""The states of a batch's response tokens, also where a prompt is read once for several responses.

Attention within packed batches (`layout.py`) is taken apart into plain rows, and put back. It takes
the place of transformers' `sdpa`, and does just that whenever a call brings no packing: a model's
configuration stays as it is, and activation checkpointing may run a layer again in the backward
pass, when the call that asked for the packing is long over.

Shapes: T packed tokens, S responses, L tokens of the longest row, A heads, D a head's width, N
response tokens, H hidden.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from riskalign.errors import InputError

# Decoder-only models that take the caller's positions at their word and hand what else they are
# called with to their attention (values and gradients of each: tests/data/test_attention.py).
SHARED_PROMPT_MODELS = frozenset(
    {
        "arcee",
        "cohere",
        "ernie4_5",
        "gemma",
        "glm",
        "gpt2",
        "gpt_neox",
        "granite",
        "llama",
        "mistral",
        "mixtral",
        "olmo",
        "olmo2",
        "opt",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "seed_oss",
        "smollm3",
        "starcoder2",
    }
)


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
        plain: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
        return plain
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


AttentionInterface.register("sdpa", packed_attention)


def can_share_prompt(config: Any) -> bool:
    """Whether a model of this transformers configuration gives the same values with the prompt
    computed once for all responses: full attention everywhere, by `sdpa`, positions given by the
    caller."""
    layer_types = getattr(config, "layer_types", None) or []
    return (
        config.model_type in SHARED_PROMPT_MODELS
        and config._attn_implementation == "sdpa"
        and all(kind == "full_attention" for kind in layer_types)
        and (bool(layer_types) or getattr(config, "sliding_window", None) is None)
    )


def response_hidden(backbone: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Last hidden states from which the response tokens are predicted.

    Args:
        backbone: returns `last_hidden_state`; for a packed batch `can_share_prompt` must hold of
            its transformers `config`.
        batch: `inputs` of a `Layout` and `hidden_index` [N].

    Returns:
        [N, H], in the order of `batch["hidden_index"]`.

    Raises:
        InputError: a packed batch for a model that would read past its rows.
    """
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "use_cache": False}
    if "unpack" in batch:
        if not can_share_prompt(backbone.config):
            raise InputError("a packed batch needs a model for which can_share_prompt holds.")
        # A mask of four dimensions is handed on as it is; packed attention makes none of it.
        inputs["attention_mask"] = batch["input_ids"].new_ones(1, 1, 1, 1)
        inputs["position_ids"] = batch["position_ids"]
        inputs["packing"] = tuple(batch[name] for name in ("unpack", "repack", "again"))
    else:
        inputs["attention_mask"] = batch["attention_mask"]
    hidden: Tensor = backbone(**inputs).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, batch["hidden_index"])
