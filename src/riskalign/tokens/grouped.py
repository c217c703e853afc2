"""Losses of groups of tokens with their gradients, in one pass over the vocabulary.

Shape legend: N response tokens, R rows (a prompt's pair or group of responses), C tokens of one
group of rows, V vocabulary, H hidden.

A row's loss, and with it the weights of its tokens' derivatives, depends on that row's tokens
alone. So a group of rows whose logits fit into the workspace needs them once: statistics, loss,
gradient, and on to the next. That takes the four matrix products of dense code, three where the
head is frozen, and no more memory than the workspace.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from riskalign.risk import Risk
from riskalign.tokens.head import Comparison, Head
from riskalign.tokens.naive import TokenStats
from riskalign.tokens.tile import comparison, gradients

# Elements of one [C, V] tile; two of them are the workspace.
_WORKSPACE_ELEMENTS = {"cpu": 1 << 25, "other": 1 << 28}


class Group(NamedTuple):
    """Some rows, a slice of R, and all of their tokens, an index [C] into N."""

    rows: slice
    tokens: Tensor


GroupLoss = Callable[[Group, TokenStats], Tensor]


def fits(n_tokens: int, head: Head) -> bool:
    """Whether a group of so many tokens fits into the workspace."""
    device = head.weight.device.type
    most = _WORKSPACE_ELEMENTS.get(device, _WORKSPACE_ELEMENTS["other"])
    return n_tokens * head.weight.shape[0] <= most


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
