"""Token statistics in chunks of tokens, so that no [N, V] tensor is ever held.

Shape legend: N response tokens, C tokens of one chunk, V vocabulary, H hidden.

With `policy` the softmax of the policy's logits and `q` the risk's worst-case density, the
derivatives with respect to those logits are

    d logp_policy = onehot(label) - policy        d risk = sum(q) * policy - q

How much each of the two weighs is known only once the whole sequence's loss is. Where the head is
trained, the backward pass therefore computes each chunk's logits again. Where only the hidden
states need a gradient, as under an adapter, the forward pass multiplies both derivatives by the
head's weight at once and keeps two vectors of H a token; nothing is computed twice.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from riskalign.risk import Risk
from riskalign.tokens.distribution import Distribution, distribution, expectation
from riskalign.tokens.head import Head
from riskalign.tokens.stats import TokenStats

# Elements of one [C, V] tensor: small enough to stay near the processor's cache, large enough
# for the matrix products to run at full speed.
_CHUNK_ELEMENTS = {"cpu": 3 << 20, "other": 1 << 26}


class _Plan(NamedTuple):
    """What the chunks share beside tensors; `ahead`: take hidden gradients in the forward."""

    head: Head
    head_ref: Head
    risk: Risk
    chunk_size: int
    product_dtype: torch.dtype
    stats_dtype: torch.dtype
    ahead: bool

    def with_weights(self, weight_VH: Tensor, bias_V: Tensor | None) -> "_Plan":
        """The plan with both heads in the matrix products' precision."""
        head = replace(self.head, weight=weight_VH.to(self.product_dtype), bias=bias_V)
        weight_ref = self.head_ref.weight.detach().to(self.product_dtype)
        return self._replace(head=head, head_ref=replace(self.head_ref, weight=weight_ref))

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
        kept = (2 if plan.ahead else 0, *hidden_NH.shape)
        by_hidden = hidden_NH.new_empty(kept, dtype=plan.stats_dtype)
        ctx.plan = plan
        if plan.ahead:
            ctx.save_for_backward(hidden_NH, by_hidden)
        else:
            ctx.save_for_backward(hidden_NH, weight_VH, bias_V, hidden_ref_NH, labels_N)
        plan = plan.with_weights(weight_VH, bias_V)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for rows in plan.chunks(n_tokens):
                policy = distribution(hidden_NH[rows], plan.head, plan.stats_dtype)
                ref = distribution(hidden_ref_NH[rows], plan.head_ref, plan.stats_dtype)
                label = labels_N[rows].unsqueeze(-1)
                stats[0, rows] = policy.log_probs.gather(-1, label).squeeze(-1)
                stats[1, rows] = ref.log_probs.gather(-1, label).squeeze(-1)
                stats[4, rows] = -expectation(policy, policy.log_probs)
                losses = torch.sub(ref.log_probs, policy.log_probs, out=policy.log_probs)
                stats[2, rows] = expectation(ref, losses)
                stats[3, rows], density = plan.risk(losses, ref.log_probs)
                if plan.ahead:
                    one, zero = losses.new_ones(len(label), 1), losses.new_zeros(len(label), 1)
                    for i, weights in enumerate(((one, zero), (zero, one))):
                        grad = _product_grad(policy, density, label, *weights)
                        by_hidden[i, rows] = grad.to(plan.product_dtype) @ plan.head.weight
        logp_policy, logp_ref, kl, risk, entropy = stats.unbind(0)
        ctx.mark_non_differentiable(logp_ref, kl, entropy)
        return logp_policy.clone(), logp_ref, kl, risk.clone(), entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, logp_grad_N: Tensor, _ref: Any, _kl: Any, risk_grad_N: Tensor, _entropy: Any
    ) -> tuple[Tensor | None, ...]:
        grads_N = (logp_grad_N.unsqueeze(-1), risk_grad_N.unsqueeze(-1))
        if ctx.plan.ahead:
            hidden_NH, by_hidden = ctx.saved_tensors
            hidden_grad = (grads_N[0] * by_hidden[0]).addcmul_(grads_N[1], by_hidden[1])
            return hidden_grad.to(hidden_NH.dtype), None, None, None, None, None
        hidden_NH, weight_VH, bias_V, hidden_ref_NH, labels_N = ctx.saved_tensors
        plan: _Plan = ctx.plan.with_weights(weight_VH, bias_V)
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        hidden_grad = torch.empty_like(hidden_NH) if need_hidden else None
        weight_grad = _zeros(weight_VH, plan) if need_weight else None
        bias_grad = _zeros(bias_V, plan) if need_bias else None
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for rows in plan.chunks(len(labels_N)):
                policy = distribution(hidden_NH[rows], plan.head, plan.stats_dtype)
                ref = distribution(hidden_ref_NH[rows], plan.head_ref, plan.stats_dtype)
                losses = torch.sub(ref.log_probs, policy.log_probs, out=policy.log_probs)
                density = plan.risk(losses, ref.log_probs).density
                logp_grad, risk_grad = (grad_N[rows] for grad_N in grads_N)
                label = labels_N[rows].unsqueeze(-1)
                grad = _product_grad(policy, density, label, logp_grad, risk_grad)
                if bias_grad is not None:
                    bias_grad += grad.sum(0)
                grad = grad.to(plan.product_dtype)
                if hidden_grad is not None:
                    hidden_grad[rows] = grad @ plan.head.weight
                if weight_grad is not None:
                    hidden_CH = hidden_NH[rows].to(plan.product_dtype)
                    if weight_grad.dtype == plan.product_dtype:
                        weight_grad.addmm_(grad.T, hidden_CH)
                    else:
                        weight_grad += grad.T @ hidden_CH
        return (
            hidden_grad,
            None if weight_grad is None else weight_grad.to(weight_VH.dtype),
            None if bias_grad is None else bias_grad.to(bias_V.dtype),
            None,
            None,
            None,
        )


def _product_grad(
    policy: Distribution,
    density_CV: Tensor,
    label_C1: Tensor,
    logp_grad_C1: Tensor,
    risk_grad_C1: Tensor,
) -> Tensor:
    """Derivative [C, V] of the loss with respect to the product `h @ weight.T`."""
    weight = risk_grad_C1 * density_CV.sum(-1, keepdim=True) - logp_grad_C1
    grad = policy.scaled * (weight / policy.total.unsqueeze(-1))
    grad.addcmul_(density_CV, risk_grad_C1, value=-1.0)
    grad.scatter_add_(-1, label_C1, logp_grad_C1)
    if isinstance(policy.slope, Tensor) or policy.slope != 1.0:
        grad.mul_(policy.slope)
    return grad


def _zeros(like: Tensor, plan: _Plan) -> Tensor:
    return torch.zeros_like(like, dtype=torch.promote_types(like.dtype, plan.stats_dtype))


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
    _check(hidden_policy, head_policy, hidden_ref, head_ref, labels, chunk_size)
    device = hidden_policy.device.type
    if torch.is_autocast_enabled(device):
        product_dtype = torch.get_autocast_dtype(device)
    else:
        product_dtype = torch.promote_types(hidden_policy.dtype, head_policy.weight.dtype)
    if chunk_size is None:
        elements = _CHUNK_ELEMENTS.get(device, _CHUNK_ELEMENTS["other"])
        chunk_size = max(16, elements // head_policy.weight.shape[0])
    plan = _Plan(
        head=replace(head_policy, weight=head_policy.weight.detach(), bias=None),
        head_ref=head_ref,
        risk=risk,
        chunk_size=chunk_size,
        product_dtype=product_dtype,
        stats_dtype=torch.promote_types(product_dtype, torch.float32),
        ahead=torch.is_grad_enabled()
        and hidden_policy.requires_grad
        and not head_policy.weight.requires_grad
        and not (head_policy.bias is not None and head_policy.bias.requires_grad),
    )
    outputs: tuple[Tensor, ...] = _TokenStats.apply(  # type: ignore[no-untyped-call]
        hidden_policy, head_policy.weight, head_policy.bias, hidden_ref.detach(), labels, plan
    )
    return TokenStats(*outputs)


def _check(
    hidden_policy: Tensor,
    head_policy: Head,
    hidden_ref: Tensor,
    head_ref: Head,
    labels: Tensor,
    chunk_size: int | None,
) -> None:
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
    if n_tokens and not 0 <= int(labels.min()) <= int(labels.max()) < vocabulary:
        raise ValueError(f"labels must lie in [0, {vocabulary})")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
