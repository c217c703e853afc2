"""Token statistics in chunks of tokens, so that no [N, V] tensor is ever held.

Shape legend: N response tokens, C tokens of one chunk, V vocabulary, H hidden.

How much the derivatives of `logp_policy` and `risk` weigh is known only once the whole sequence's
loss is. Where the head is trained, the backward pass therefore computes each chunk's logits again.
Where only the hidden states need a gradient, as under an adapter, the forward pass multiplies both
derivatives by the head's weight at once and keeps two vectors of H a token; nothing is computed
twice. `grouped.py` needs neither where a pair's logits fit into the workspace.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from riskalign.risk import Risk
from riskalign.tokens.head import Head
from riskalign.tokens.stats import TokenStats
from riskalign.tokens.tile import Accumulated, Tiles

# Elements of one [C, V] tile: few enough to be a small workspace, enough for matrix products at
# full speed, and for the head to be read and its gradient written seldom.
_CHUNK_ELEMENTS = {"cpu": 12 << 20, "other": 1 << 26}


class _Plan(NamedTuple):
    """What the chunks share beside tensors; `ahead`: take hidden gradients in the forward."""

    head: Head
    head_ref: Head
    risk: Risk
    chunk_size: int
    product_dtype: torch.dtype
    stats_dtype: torch.dtype
    ahead: bool

    def tiles(self, n_tokens: int) -> Tiles:
        """The workspace for chunks of so many tokens in all."""
        most = min(self.chunk_size, n_tokens)
        return Tiles(
            self.head, self.head_ref, self.risk, self.product_dtype, self.stats_dtype, most
        )

    def chunks(self, n_tokens: int) -> list[slice]:
        """The chunks' tokens."""
        return [slice(i, i + self.chunk_size) for i in range(0, n_tokens, self.chunk_size)]


class _TokenStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        hidden_ref_NH: Tensor,
        labels_N: Tensor,
        plan: _Plan,
    ) -> tuple[Tensor, ...]:
        n_tokens = len(labels_N)
        stats = hidden_NH.new_empty(5, n_tokens, dtype=plan.stats_dtype)
        by_hidden = hidden_NH.new_empty(
            (2 if plan.ahead else 0, *hidden_NH.shape), dtype=plan.stats_dtype
        )
        ctx.plan = plan
        if plan.ahead:
            ctx.save_for_backward(hidden_NH, by_hidden)
        else:
            ctx.save_for_backward(hidden_NH, weight_VH, bias_V, hidden_ref_NH, labels_N)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            tiles = plan.tiles(n_tokens)
            for rows in plan.chunks(n_tokens):
                tile = tiles(hidden_NH[rows], hidden_ref_NH[rows], labels_N[rows])
                stats[:, rows] = tile.stats
                if plan.ahead:
                    one = torch.ones_like(tile.stats[0])
                    zero = torch.zeros_like(one)
                    for i, (weights, keep) in enumerate(
                        (((one, zero), True), ((zero, one), False))
                    ):
                        grad = tile.gradient(*weights, keep).to(plan.product_dtype)
                        by_hidden[i, rows] = (grad @ tiles.head.weight).to(plan.stats_dtype)
        logp_policy, logp_ref, kl, risk, entropy = stats.unbind(0)
        ctx.mark_non_differentiable(logp_ref, kl, entropy)
        return logp_policy.clone(), logp_ref, kl, risk.clone(), entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, logp_grad_N: Tensor, _ref: Any, _kl: Any, risk_grad_N: Tensor, _entropy: Any
    ) -> tuple[Tensor | None, ...]:
        if ctx.plan.ahead:
            hidden_NH, by_hidden = ctx.saved_tensors
            hidden_grad = logp_grad_N.unsqueeze(-1) * by_hidden[0]
            hidden_grad.addcmul_(risk_grad_N.unsqueeze(-1), by_hidden[1])
            return hidden_grad.to(hidden_NH.dtype), None, None, None, None, None
        hidden_NH, weight_VH, bias_V, hidden_ref_NH, labels_N = ctx.saved_tensors
        plan: _Plan = ctx.plan
        grads = Accumulated(hidden_NH, weight_VH, bias_V, ctx.needs_input_grad[:3])
        with torch.autocast(hidden_NH.device.type, enabled=False):
            tiles = plan.tiles(len(labels_N))
            for rows in plan.chunks(len(labels_N)):
                tile = tiles(hidden_NH[rows], hidden_ref_NH[rows], labels_N[rows])
                grad = tile.gradient(logp_grad_N[rows], risk_grad_N[rows], False)
                grads.add(grad, hidden_NH[rows], rows, tiles)
        return (*grads.results(), None, None, None)


def precisions(hidden: Tensor, head: Head) -> tuple[torch.dtype, torch.dtype]:
    """That of matrix products (autocast's, or the inputs' own) and that of everything else."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        products = torch.get_autocast_dtype(device)
    else:
        products = torch.promote_types(hidden.dtype, head.weight.dtype)
    return products, torch.promote_types(products, torch.float32)


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
    check_inputs(hidden_policy, head_policy, hidden_ref, head_ref, labels, chunk_size)
    device = hidden_policy.device.type
    product_dtype, stats_dtype = precisions(hidden_policy, head_policy)
    if chunk_size is None:
        elements = _CHUNK_ELEMENTS.get(device, _CHUNK_ELEMENTS["other"])
        chunk_size = max(16, elements // head_policy.weight.shape[0])
    plan = _Plan(
        head=head_policy,
        head_ref=head_ref,
        risk=risk,
        chunk_size=chunk_size,
        product_dtype=product_dtype,
        stats_dtype=stats_dtype,
        ahead=torch.is_grad_enabled()
        and hidden_policy.requires_grad
        and not head_policy.weight.requires_grad
        and not (head_policy.bias is not None and head_policy.bias.requires_grad),
    )
    outputs: tuple[Tensor, ...] = _TokenStats.apply(  # type: ignore[no-untyped-call]
        hidden_policy, head_policy.weight, head_policy.bias, hidden_ref.detach(), labels, plan
    )
    return TokenStats(*outputs)


def check_inputs(
    hidden_policy: Tensor,
    head_policy: Head,
    hidden_ref: Tensor,
    head_ref: Head,
    labels: Tensor,
    chunk_size: int | None = None,
) -> None:
    """Refuse with `ValueError` what does not fit together."""
    n_tokens = labels.shape[0] if labels.ndim == 1 else -1
    for name, hidden, head in (
        ("policy", hidden_policy, head_policy),
        ("reference", hidden_ref, head_ref),
    ):
        if hidden.ndim != 2 or hidden.shape != (n_tokens, head.weight.shape[1]):
            raise ValueError(
                f"{name}: hidden states {list(hidden.shape)} do not fit labels "
                f"{list(labels.shape)} and head {list(head.weight.shape)}"
            )
    vocabulary = head_policy.weight.shape[0]
    if vocabulary != head_ref.weight.shape[0]:
        raise ValueError(
            f"policy and reference differ in vocabulary: {vocabulary} and "
            f"{head_ref.weight.shape[0]} entries"
        )
    if labels.dtype != torch.long or labels.device != hidden_policy.device:
        raise ValueError(
            f"labels must be int64 and on {hidden_policy.device}, not {labels.dtype} on "
            f"{labels.device}"
        )
    if n_tokens and not 0 <= int(labels.min()) <= int(labels.max()) < vocabulary:
        raise ValueError(f"labels must lie in [0, {vocabulary})")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
