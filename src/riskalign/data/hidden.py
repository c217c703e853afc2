"""The states of a batch's response tokens, and which models may read a prompt once for several.

Shapes: S rows of L tokens or one of T, N response tokens, H hidden.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from riskalign.data.attention import NAME
from riskalign.data.layout import is_packed

# Decoder-only models that take the caller's positions at their word and hand what else they are
# called with to their attention (tests/data/test_hidden.py compares values and gradients of each).
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


def can_share_prompt(config: Any) -> bool:
    """Whether a model of this transformers configuration gives the same values with the prompt
    computed once for all responses: full attention everywhere, by `sdpa`, positions given by the
    caller."""
    layer_types = getattr(config, "layer_types", None) or []
    return (
        config.model_type in SHARED_PROMPT_MODELS
        and config._attn_implementation in ("sdpa", NAME)
        and all(kind == "full_attention" for kind in layer_types)
        and (bool(layer_types) or getattr(config, "sliding_window", None) is None)
    )


def response_hidden(backbone: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Last hidden states from which the response tokens are predicted.

    Args:
        backbone: returns `last_hidden_state`; has a transformers `config`, of which
            `can_share_prompt` must hold for a packed batch. Its `sdpa` attention becomes that of
            `attention.py`, which is the same for other calls.
        batch: `inputs` of a `Layout` and `hidden_index` [N].

    Returns:
        [N, H], in the order of `batch["hidden_index"]`.
    """
    config: Any = backbone.config
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "use_cache": False}
    if is_packed(batch):
        config._attn_implementation = NAME
        # A mask of four dimensions is handed on as it is; packed attention makes none of it.
        inputs["attention_mask"] = batch["input_ids"].new_ones(1, 1, 1, 1)
        inputs["position_ids"] = batch["position_ids"]
        inputs["packing"] = tuple(batch[name] for name in ("unpack", "repack", "again"))
    else:
        inputs["attention_mask"] = batch["attention_mask"]
    hidden: Tensor = backbone(**inputs).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, batch["hidden_index"])
