"""Statistics of each response token, and losses of groups of them with their gradients.

Shape legend: N response tokens, R rows (a prompt's pair or group of responses), C tokens of one
chunk or of one group of rows, V vocabulary, H hidden. No [N, V] tensor is ever held, but by
`token_stats_naive`, the oracle of the others.

How much the derivatives of `logp_policy` and `risk` weigh is known only once the whole sequence's
loss is. Where the head is trained, the backward pass of `token_stats` therefore computes each
chunk's logits again. Where only the hidden states need a gradient, as under an adapter, the forward
pass multiplies both derivatives by the head's weight at once and keeps two vectors of H a token.

A row's loss depends on that row's tokens alone. So `grouped_losses` needs the logits of a group of
rows that fit into the workspace once: statistics, loss, gradient, and on to the next. That takes
the four matrix products of dense code, three where the head is frozen.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from riskalign.risk import Risk
from riskalign.tokens.head import Comparison, Head
from riskalign.tokens.tile import Tiles, comparison, gradients

# Elements of one [C, V] tile: few enough to be a small workspace, enough for matrix products at
# full speed, and for the head to be read and its gradient written seldom.
_CHUNK_ELEMENTS = {"cpu": 12 << 20, "other": 1 << 26}
# Elements of one [C, V] tile; two of them are the workspace.
_WORKSPACE_ELEMENTS = {"cpu": 1 << 25, "other": 1 << 28}


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
        chunk_size = _chunk(weight)
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


class Group(NamedTuple):
    """Some rows, a slice of R, and all of their tokens, an index [C] into N."""

    rows: slice
    tokens: Tensor


GroupLoss = Callable[[Group, TokenStats], Tensor]


def fits(n_tokens: int, head: Head) -> bool:
    """Whether a group of so many tokens fits into the workspace."""
    return n_tokens <= _most_tokens(head.weight)


def tile_tokens(n_rows: int, row_tokens: int, head: Head) -> int:
    """Tokens of the largest tile of a step on so many rows, each of so many response tokens."""
    if fits(row_tokens, head):
        return min(n_rows, _most_tokens(head.weight) // row_tokens) * row_tokens
    return min(n_rows * row_tokens, _chunk(head.weight))


def _most_tokens(weight: Tensor) -> int:
    most = _WORKSPACE_ELEMENTS.get(weight.device.type, _WORKSPACE_ELEMENTS["other"])
    return most // len(weight)


def _chunk(weight: Tensor) -> int:
    """Tokens of a tile where rows do not fit."""
    elements = _CHUNK_ELEMENTS.get(weight.device.type, _CHUNK_ELEMENTS["other"])
    return max(16, elements // len(weight))


def _run(
    compared: Comparison,
    groups: Sequence[Group],
    loss: GroupLoss,
    wanted: Sequence[bool],
    inputs: Sequence[Tensor | None],
    losses_R: Tensor,
    weights_R: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Fill `losses_R` and return the gradients of their sum, weighted where weights are given."""

    def derivatives(i: int, stats_5C: Tensor) -> tuple[Tensor, ...]:
        rows = groups[i].rows
        with torch.enable_grad():
            stats = TokenStats(*stats_5C.unbind(0))
            leaves = [stats.logp_policy.requires_grad_(), stats.risk.requires_grad_()]
            of_rows = loss(groups[i], stats)
            total = (of_rows if weights_R is None else of_rows * weights_R[rows]).sum()
        losses_R[rows] = of_rows.detach()
        return torch.autograd.grad(total, leaves, materialize_grads=True)

    return gradients(compared, inputs, wanted, [group.tokens for group in groups], derivatives)


class _GroupedLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        hidden_ref_NH: Tensor,
        labels_N: Tensor,
        compared: Comparison,
        groups: Sequence[Group],
        loss: GroupLoss,
    ) -> Tensor:
        inputs = hidden_NH, weight_VH, bias_V, hidden_ref_NH, labels_N
        n_rows = max((group.rows.stop for group in groups), default=0)
        losses = hidden_NH.new_zeros(n_rows, dtype=compared.stats_dtype)
        ctx.run = partial(_run, compared, groups, loss, ctx.needs_input_grad)
        ctx.grads = ctx.run(inputs, losses)
        ctx.save_for_backward(*inputs)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_R: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is not None and grad_R.numel() and bool((grad_R == grad_R[0]).all()):
            # A mean or a sum over rows: what the forward pass has found, by one factor, which a
            # second pass over a retained graph no longer finds.
            grads = tuple(None if grad is None else grad.mul_(grad_R[0]) for grad in ctx.grads)
            ctx.grads = None
        else:
            grads = ctx.run(ctx.saved_tensors, torch.empty_like(grad_R), grad_R)
        return (*grads, *[None] * 5)


def grouped_losses(
    hidden_policy: Tensor,
    head_policy: Head,
    hidden_ref: Tensor,
    head_ref: Head,
    labels: Tensor,
    risk: Risk,
    *,
    groups: Sequence[Group],
    loss: GroupLoss,
) -> Tensor:
    """The losses [R] of rows of responses, differentiable once by hidden states and head.

    Shapes: as for `token_stats`; `groups` part the R rows and their tokens among them, each small
    enough that `fits`. `loss(group, stats)` gives the losses of the group's rows from the
    statistics of its tokens (each [C], in the order of `group.tokens`), by operations that torch
    can differentiate; it runs once in the forward pass, and again in the backward pass where that
    weighs the rows unequally, which costs as much again.

    Values and gradients are those of the same losses of `token_stats`, at the cost of fewer
    matrix products. Raises `ValueError` as `token_stats` does.
    """
    losses: Tensor = _GroupedLosses.apply(  # type: ignore[no-untyped-call]
        hidden_policy,
        head_policy.weight,
        head_policy.bias,
        hidden_ref.detach(),
        labels,
        comparison(hidden_policy, head_policy, hidden_ref, head_ref, labels, risk),
        groups,
        loss,
    )
    return losses
