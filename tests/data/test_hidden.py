"""Hidden states: shared prompts equal plain rows, and padding changes nothing."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from riskalign.data import (
    RowCollator,
    can_share_prompt,
    load_pairs,
    response_hidden,
    tokenize_rows,
)
from riskalign.data.attention import SHARED_PROMPT_MODELS
from riskalign.tokens import backbone_of, head_of
from tests import tiny

# Fields without which the tiny configuration is not one of the model's kind.
SPECIAL: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 8},
    "qwen3": {"head_dim": 8},
    "ernie4_5": {"head_dim": 8},
    "seed_oss": {"head_dim": 8},
    "mistral": {"sliding_window": None},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 64},
    "phi3": {"original_max_position_embeddings": 512},
    "glm": {"head_dim": 8},
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}


def rows(n: int) -> list[dict[str, Any]]:
    pairs, _ = tokenize_rows(load_pairs(tiny.make_pairs(n)), tiny.make_tokenizer(), max_length=256)
    return [dict(pair) for pair in pairs]


def hidden_and_gradient(model: PreTrainedModel, shared: bool) -> tuple[torch.Tensor, torch.Tensor]:
    batch = RowCollator(2, shared)(rows(3))
    model.zero_grad()
    hidden = response_hidden(backbone_of(model), batch)
    weights = torch.linspace(-1, 1, hidden.numel()).view_as(hidden)
    (hidden * weights).sum().backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return hidden.detach(), torch.cat(gradients)


@pytest.mark.parametrize("model_type", sorted(SHARED_PROMPT_MODELS))
def test_shared_prompts_give_the_same_values_and_gradients(model_type: str) -> None:
    model = tiny.make_model(model_type, **SPECIAL.get(model_type, {}))
    assert can_share_prompt(model.config)
    plain, plain_gradient = hidden_and_gradient(model, shared=False)
    shared, shared_gradient = hidden_and_gradient(model, shared=True)
    torch.testing.assert_close(shared, plain, rtol=1e-4, atol=1e-5)
    scale = plain_gradient.abs().max()
    torch.testing.assert_close(shared_gradient / scale, plain_gradient / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_log_probabilities_equal_the_models_own(shared: bool) -> None:
    model, pairs = tiny.make_model("qwen2"), rows(3)
    batch = RowCollator(2, shared)(pairs)
    head = head_of(model)
    with torch.no_grad():
        hidden = response_hidden(backbone_of(model), batch)
        got = head.logits(hidden).log_softmax(-1).gather(-1, batch["target_ids"][:, None])[:, 0]
        for n, (pair, side) in enumerate(
            [(p, side) for p in pairs for side in ("chosen_ids", "rejected_ids")]
        ):
            ids = torch.tensor([pair["prompt_ids"] + pair[side]])
            log_probs = model(ids).logits[0].log_softmax(-1)
            start = len(pair["prompt_ids"])
            wanted = log_probs[start - 1 : -1].gather(-1, ids[0, start:, None])[:, 0]
            torch.testing.assert_close(got[batch["sequence"] == n], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("mistral", {"sliding_window": 8}),
        ("gemma2", {"attn_implementation": "eager", "head_dim": 8}),
        ("opt", {"attn_implementation": "flash_attention_2"}),
        ("llama", {"attn_implementation": "eager"}),
        ("bloom", {"attn_implementation": "eager"}),
    ],
)
def test_other_attention_is_not_shared(model_type: str, config: dict[str, Any]) -> None:
    implementation = config.pop("attn_implementation", "sdpa")
    made = tiny.make_config(model_type, **config)
    made._attn_implementation = implementation
    assert not can_share_prompt(made)
