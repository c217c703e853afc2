"""The states of a batch's response tokens, and which models may read a prompt once for several.

Shapes: B pairs, R rows, L tokens of the longest row, N response tokens, H hidden.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from riskalign.data.collate import PAD, shared_prompt_mask

# Decoder-only models whose attention takes positions and a mask of the caller's at their word
# (tests/training/test_forward.py compares values and gradients for each).
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
        "nemotron",
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
        "stablelm",
        "starcoder2",
    }
)


def can_share_prompt(config: Any) -> bool:
    """Whether a model of this transformers configuration gives the same values with the prompt
    computed once for all responses: full attention everywhere, `sdpa` or `eager`, positions
    given by the caller."""
    layer_types = getattr(config, "layer_types", None) or []
    return (
        config.model_type in SHARED_PROMPT_MODELS
        and config._attn_implementation in ("sdpa", "eager")
        and all(kind == "full_attention" for kind in layer_types)
        and (bool(layer_types) or getattr(config, "sliding_window", None) is None)
    )


def response_hidden(
    backbone: nn.Module, batch: Mapping[str, Tensor], *, shared_prompt: bool
) -> Tensor:
    """Last hidden states from which the response tokens are predicted.

    Args:
        backbone: returns `last_hidden_state` [R, L, H]; has a transformers `config`.
        batch: `input_ids`, `position_ids`, `segments` [R, L] and `hidden_index` [N], as
            `PairCollator(shared_prompt=shared_prompt)` returns them.
        shared_prompt: whether rows hold several responses to their prompt.

    Returns:
        [N, H], in the order of `batch["hidden_index"]`.
    """
    config: Any = backbone.config
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "use_cache": False}
    if shared_prompt:
        seen = shared_prompt_mask(batch["segments"])
        if config._attn_implementation == "eager":
            seen = _additive(seen, next(backbone.parameters()).dtype)
        inputs |= {"attention_mask": seen, "position_ids": batch["position_ids"]}
    else:
        inputs["attention_mask"] = (batch["segments"] != PAD).long()
    hidden_RLH: Tensor = backbone(**inputs).last_hidden_state
    return hidden_RLH.flatten(0, 1).index_select(0, batch["hidden_index"])


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    blocked = torch.finfo(dtype).min
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, blocked)
