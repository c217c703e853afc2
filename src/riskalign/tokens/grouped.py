"""Losses of groups of tokens with their gradients, in one pass over the vocabulary.

Shape legend: N response tokens, R rows (a prompt's pair or group of responses), C tokens of one
group of rows, V vocabulary, H hidden.

A row's loss, and with it the weights of its tokens' derivatives, depends on that row's tokens
alone. So a group of rows whose logits fit into the workspace needs them once: statistics, loss,
gradient, and on to the next. That takes the four matrix products of dense code, three where the
head is frozen, and no more memory than the workspace.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from riskalign.risk import Risk
from riskalign.tokens.chunked import check_inputs, precisions
from riskalign.tokens.head import Head
from riskalign.tokens.stats import TokenStats
from riskalign.tokens.tile import Accumulated, Tiles

# Elements of one [C, V] tile; two of them are the workspace.
_WORKSPACE_ELEMENTS = {"cpu": 1 << 25, "other": 1 << 28}


class Group(NamedTuple):
    """Some rows, a slice of R, and all of their tokens, an index [C] into N."""

    rows: slice
    tokens: Tensor


GroupLoss = Callable[[Group, TokenStats], Tensor]


class _Work(NamedTuple):
    groups: Sequence[Group]
    loss: GroupLoss
    head: Head
    head_ref: Head
    risk: Risk
    product_dtype: torch.dtype
    stats_dtype: torch.dtype


def fits(n_tokens: int, head: Head) -> bool:
    """Whether a group of so many tokens fits into the workspace."""
    device = head.weight.device.type
    most = _WORKSPACE_ELEMENTS.get(device, _WORKSPACE_ELEMENTS["other"])
    return n_tokens * head.weight.shape[0] <= most


def _run(
    work: _Work,
    hidden_NH: Tensor,
    hidden_ref_NH: Tensor,
    labels_N: Tensor,
    bias_V: Tensor | None,
    wanted: tuple[bool, ...],
    weights_R: Tensor | None,
    losses_R: Tensor,
) -> Accumulated:
    """Fill `losses_R` and return the gradients of their sum, weighted where weights are given."""
    grads = Accumulated(hidden_NH, work.head.weight, bias_V, wanted)
    most = max((len(group.tokens) for group in work.groups), default=0)
    with torch.autocast(hidden_NH.device.type, enabled=False):
        tiles = Tiles(
            work.head, work.head_ref, work.risk, work.product_dtype, work.stats_dtype, most
        )
        for group in work.groups:
            own = group.tokens
            hidden_CH = hidden_NH[own]
            tile = tiles(hidden_CH, hidden_ref_NH[own], labels_N[own])
            with torch.enable_grad():
                stats = TokenStats(*tile.stats.unbind(0))
                leaves = [stats.logp_policy.requires_grad_(), stats.risk.requires_grad_()]
                loss = work.loss(group, stats)
                total = (loss if weights_R is None else loss * weights_R[group.rows]).sum()
            losses_R[group.rows] = loss.detach()
            by_logp, by_risk = torch.autograd.grad(total, leaves, materialize_grads=True)
            grads.add(tile.gradient(by_logp, by_risk, False), hidden_CH, own, tiles)
    return grads


class _GroupedLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        hidden_ref_NH: Tensor,
        labels_N: Tensor,
        n_rows: int,
        work: _Work,
    ) -> Tensor:
        losses = hidden_NH.new_zeros(n_rows, dtype=work.stats_dtype)
        grads = _run(
            work, hidden_NH, hidden_ref_NH, labels_N, bias_V, ctx.needs_input_grad, None, losses
        )
        ctx.work, ctx.grads = work, grads.results()
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, hidden_ref_NH, labels_N)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_R: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NH, _, bias_V, hidden_ref_NH, labels_N = ctx.saved_tensors
        if ctx.grads is not None and grad_R.numel() and bool((grad_R == grad_R[0]).all()):
            # A mean or a sum over rows: what the forward pass has found, by one factor, which a
            # second pass over a retained graph no longer finds.
            found = tuple(None if grad is None else grad.mul_(grad_R[0]) for grad in ctx.grads)
            ctx.grads = None
        else:
            found = _run(
                ctx.work,
                hidden_NH,
                hidden_ref_NH,
                labels_N,
                bias_V,
                ctx.needs_input_grad,
                grad_R,
                torch.empty_like(grad_R),
            ).results()
        return (*found, None, None, None, None)


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
    check_inputs(hidden_policy, head_policy, hidden_ref, head_ref, labels)
    n_rows = max((group.rows.stop for group in groups), default=0)
    dtypes = precisions(hidden_policy, head_policy)
    work = _Work(groups, loss, head_policy, head_ref, risk, *dtypes)
    losses: Tensor = _GroupedLosses.apply(  # type: ignore[no-untyped-call]
        hidden_policy,
        head_policy.weight,
        head_policy.bias,
        hidden_ref.detach(),
        labels,
        n_rows,
        work,
    )
    return losses
