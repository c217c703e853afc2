"""Token statistics in chunks of tokens, so that no [N, V] tensor is ever held.

Shape legend: N response tokens, V vocabulary, H hidden.

How much the derivatives of `logp_policy` and `risk` weigh is known only once the whole sequence's
loss is. Where the head is trained, the backward pass therefore computes each chunk's logits again.
Where only the hidden states need a gradient, as under an adapter, the forward pass multiplies both
derivatives by the head's weight at once and keeps two vectors of H a token; nothing is computed
twice. `grouped.py` needs neither where a pair's logits fit into the workspace.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from riskalign.risk import Risk
from riskalign.tokens.head import Comparison, Head
from riskalign.tokens.naive import TokenStats
from riskalign.tokens.tile import Tiles, comparison, gradients

# Elements of one [C, V] tile: few enough to be a small workspace, enough for matrix products at
# full speed, and for the head to be read and its gradient written seldom.
_CHUNK_ELEMENTS = {"cpu": 12 << 20, "other": 1 << 26}


class _TokenStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        hidden_ref_NH: Tensor,
        labels_N: Tensor,
        compared: Comparison,
        chunks: list[slice],
        ahead: bool,
    ) -> tuple[Tensor, ...]:
        """`ahead`: keep the gradients of both statistics by the hidden states."""
        dtype = compared.stats_dtype
        stats = hidden_NH.new_empty(5, len(labels_N), dtype=dtype)
        by_hidden = hidden_NH.new_empty((2 if ahead else 0, *hidden_NH.shape), dtype=dtype)
        ctx.compared, ctx.chunks, ctx.ahead = compared, chunks, ahead
        if ahead:
            ctx.save_for_backward(hidden_NH, by_hidden)
        else:
            ctx.save_for_backward(hidden_NH, weight_VH, bias_V, hidden_ref_NH, labels_N)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            tiles = Tiles(compared, max((len(labels_N[rows]) for rows in chunks), default=0))
            for rows in chunks:
                tile = tiles(hidden_NH[rows], hidden_ref_NH[rows], labels_N[rows])
                stats[:, rows] = tile.stats
                if ahead:
                    one, zero = torch.ones_like(tile.stats[0]), torch.zeros_like(tile.stats[0])
                    for i, (weights, keep) in enumerate(
                        (((one, zero), True), ((zero, one), False))
                    ):
                        grad = tile.gradient(*weights, keep).to(compared.product_dtype)
                        by_hidden[i, rows] = (grad @ tiles.weight).to(dtype)
        logp_policy, logp_ref, kl, risk, entropy = stats.unbind(0)
        ctx.mark_non_differentiable(logp_ref, kl, entropy)
        return logp_policy.clone(), logp_ref, kl, risk.clone(), entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, logp_grad_N: Tensor, _ref: Any, _kl: Any, risk_grad_N: Tensor, _entropy: Any
    ) -> tuple[Tensor | None, ...]:
        if ctx.ahead:
            hidden_NH, by_hidden = ctx.saved_tensors
            hidden_grad = logp_grad_N.unsqueeze(-1) * by_hidden[0]
            hidden_grad.addcmul_(risk_grad_N.unsqueeze(-1), by_hidden[1])
            return (hidden_grad.to(hidden_NH.dtype), *[None] * 7)

        def derivatives(i: int, _stats: Tensor) -> tuple[Tensor, Tensor]:
            return logp_grad_N[ctx.chunks[i]], risk_grad_N[ctx.chunks[i]]

        grads = gradients(
            ctx.compared, ctx.saved_tensors, ctx.needs_input_grad, ctx.chunks, derivatives
        )
        return (*grads, *[None] * 5)


def token_stats(
    hidden_policy: Tensor,
    head_policy: Head,
    hidden_ref: Tensor,
    head_ref: Head,
    labels: Tensor,
    risk: Risk,
    *,
    chunk_size: int | None = None,
) -> TokenStats:
    """Policy-versus-reference statistics of N response tokens, `chunk_size` tokens at a time.

    Shapes: `hidden_policy` and `hidden_ref` are [N, H] (the two models' H may differ), the last
    hidden states from which each response token is predicted; `labels` [N] holds the tokens.
    Each result is [N], in nats.

    `logp_policy` and `risk` are differentiable with respect to `hidden_policy` and the policy
    head's weight and bias, once. Matrix products run in the inputs' precision, or in
    autocast's; everything else in float32 or, for float64 inputs, float64.

    Raises `ValueError` for shapes that do not fit or labels outside the vocabulary.
    """
    compared = comparison(hidden_policy, head_policy, hidden_ref, head_ref, labels, risk)
    weight, bias = head_policy.weight, head_policy.bias
    if chunk_size is None:
        elements = _CHUNK_ELEMENTS.get(hidden_policy.device.type, _CHUNK_ELEMENTS["other"])
        chunk_size = max(16, elements // len(weight))
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    outputs: tuple[Tensor, ...] = _TokenStats.apply(  # type: ignore[no-untyped-call]
        hidden_policy,
        weight,
        bias,
        hidden_ref.detach(),
        labels,
        compared,
        [slice(i, i + chunk_size) for i in range(0, len(labels), chunk_size)],
        torch.is_grad_enabled() and hidden_policy.requires_grad and not trained,
    )
    return TokenStats(*outputs)
