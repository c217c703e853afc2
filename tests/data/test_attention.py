"""Packed attention: its derivatives, plain calls, and the same values as plain rows'."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from riskalign.data import (
    RowCollator,
    can_share_prompt,
    load_pairs,
    packed,
    response_hidden,
    tokenize_rows,
)
from riskalign.data.attention import SHARED_PROMPT_MODELS, _Repack, _Unpack
from riskalign.tokens import backbone_of, head_of
from tests import tiny

ROWS = [([1, 2], [[3, 4, 5], [6], [7, 8]]), ([9], [[10, 11]])]


def test_unpack_and_repack_have_the_derivatives_of_selections() -> None:
    inputs = packed(ROWS).inputs
    packing = tuple(inputs[name] for name in ("unpack", "repack", "again"))
    unpack, repack, _ = packing
    taken_apart: Any = _Unpack.apply
    put_together: Any = _Repack.apply
    n_tokens, n_places = len(repack), unpack.numel()
    flat = torch.randn(n_tokens, 3, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(n_places, 3, dtype=torch.float64, requires_grad=True)
    padding = (unpack.flatten() < 0).unsqueeze(-1)
    # What comes back from padding never counts, and a token is read at its own place only.
    weights = torch.randn(n_places, 3, dtype=torch.float64).masked_fill(padding, 0.0)
    [actual] = torch.autograd.grad((taken_apart(flat, *packing) * weights).sum(), flat)
    [wanted] = torch.autograd.grad((flat[unpack.flatten().clamp_min(0)] * weights).sum(), flat)
    torch.testing.assert_close(actual, wanted)
    weights = torch.randn(n_tokens, 3, dtype=torch.float64)
    [actual] = torch.autograd.grad((put_together(rows, *packing) * weights).sum(), rows)
    [wanted] = torch.autograd.grad((rows[repack] * weights).sum(), rows)
    torch.testing.assert_close(actual, wanted)


def test_other_calls_are_sdpa() -> None:
    model: Any = tiny.make_model("llama")
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 2, 2]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        before = model(ids, attention_mask=mask).logits
        made = model.generate(ids[:1], max_new_tokens=5, do_sample=False)
        pairs = [{"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7], "gap": 0.0}]
        response_hidden(backbone_of(model), RowCollator(2, True)(pairs))
        assert model.config._attn_implementation == "sdpa"
        assert torch.equal(model(ids, attention_mask=mask).logits, before)
        assert torch.equal(model.generate(ids[:1], max_new_tokens=5, do_sample=False), made)


def test_a_checkpointed_layer_is_packed_again_in_the_backward_pass() -> None:
    pairs = [{"prompt_ids": [5, 9], "chosen_ids": [6], "rejected_ids": [7, 3], "gap": 0.0}] * 2
    grads = []
    for checkpointing in (False, True):
        model = tiny.make_model("llama")
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
        response_hidden(backbone_of(model), RowCollator(2, True)(pairs)).square().sum().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


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
