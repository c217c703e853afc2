"""Packed attention: the derivatives of taking apart and putting together, and plain calls."""

from typing import Any

import torch

from riskalign.data import RowCollator, packed, response_hidden
from riskalign.data.attention import _Repack, _Unpack
from riskalign.tokens import backbone_of
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
