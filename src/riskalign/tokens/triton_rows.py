"""`rows.c` for GPUs: token statistics and their gradient as Triton kernels.

One program has one token's row of both models' products, which it reads from the chip's second
cache level, where a tile of them mostly stays. CVaR's quantile is found by parting its bracket into
sixteen in each of eight rounds; nothing waits for the host. Logits are taken less their row's
maximum, and losses compared as differences `d = logit_ref - logit_policy` of such, which the
logarithms of the two totals shift all alike. Tested against `tile.plain_tile`, on a CPU by Triton's
interpreter.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from riskalign.risk import Risk
from riskalign.tokens.head import Head
from riskalign.tokens.stats import MEASURES

_BLOCK = 1024
_WARPS = 8
_ROUNDS = 8
_ROW_FLOATS = 9
# Logits are not less: a forbidden entry's is finite, so that no difference of two is NaN.
_FLOOR = tl.constexpr(-1e30)
_POSSIBLE = tl.constexpr(-1e29)
_HUGE = tl.constexpr(1e25)


@triton.jit
def _cap(z, cap, HAS_CAP: tl.constexpr):
    if HAS_CAP:
        z = cap * (1.0 - 2.0 / (1.0 + tl.exp(2.0 * z / cap)))
    # A NaN must stay one, so that divergence is seen.
    return tl.where(z > _FLOOR, z, tl.where(z == z, _FLOOR, z))


@triton.jit
def _logits(
    side, bias, row, at, inside, stride, scale, cap, HAS_BIAS: tl.constexpr, HAS_CAP: tl.constexpr
):
    z = tl.load(side + row * stride + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        z += tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    return tl.where(inside, _cap(z * scale, cap, HAS_CAP), _FLOOR)


@triton.jit
def _statistics(
    policy,
    ref,
    bias,
    bias_ref,
    labels,
    stats,
    rows,
    n_rows,
    vocabulary,
    stride,
    scale,
    scale_ref,
    cap,
    cap_ref,
    parameter,
    HAS_BIAS: tl.constexpr,
    HAS_BIAS_REF: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_CAP_REF: tl.constexpr,
    MEASURE: tl.constexpr,
    ROUNDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    top = tl.full((), _FLOOR, tl.float32)
    top_ref = top
    for start in range(0, vocabulary, BLOCK):
        at = start + lane
        inside = at < vocabulary
        z = _logits(policy, bias, row, at, inside, stride, scale, cap, HAS_BIAS, HAS_CAP)
        y = _logits(
            ref, bias_ref, row, at, inside, stride, scale_ref, cap_ref, HAS_BIAS_REF, HAS_CAP_REF
        )
        top = tl.maximum(top, tl.max(z, axis=0))
        top_ref = tl.maximum(top_ref, tl.max(y, axis=0))
    total = tl.zeros((), tl.float32)
    weighted, total_ref, gap, total_tilted = total, total, total, total
    top_tilted = tl.full((), _FLOOR, tl.float32)
    low, high = -top_tilted, top_tilted
    for start in range(0, vocabulary, BLOCK):
        at = start + lane
        inside = at < vocabulary
        z = _logits(policy, bias, row, at, inside, stride, scale, cap, HAS_BIAS, HAS_CAP)
        y = _logits(
            ref, bias_ref, row, at, inside, stride, scale_ref, cap_ref, HAS_BIAS_REF, HAS_CAP_REF
        )
        z, y = z - top, y - top_ref
        d, possible = y - z, y > _POSSIBLE
        e, f = tl.exp(z), tl.exp(y)
        total += tl.sum(e, axis=0)
        weighted += tl.sum(tl.where(e > 0.0, e * z, 0.0), axis=0)
        total_ref += tl.sum(f, axis=0)
        gap += tl.sum(tl.where(f > 0.0, f * d, 0.0), axis=0)
        low = tl.minimum(low, tl.min(tl.where(possible, d, -_FLOOR), axis=0))
        high = tl.maximum(high, tl.max(tl.where(possible, d, _FLOOR), axis=0))
        if MEASURE == 2:
            tilted = tl.where(possible, y + parameter * d, _FLOOR)
            new = tl.maximum(top_tilted, tl.max(tilted, axis=0))
            total_tilted = total_tilted * tl.exp(top_tilted - new)
            total_tilted += tl.sum(tl.exp(tilted - new), axis=0)
            top_tilted = new
    log_policy, log_ref = tl.log(total), tl.log(total_ref)
    # A loss is d less this.
    shift = log_ref - log_policy
    kl = gap / total_ref - shift
    risk = kl
    mass = tl.full((), 1.0, tl.float32)
    share = tl.zeros((), tl.float32)
    log_tilted = top_tilted
    if MEASURE == 2:
        log_tilted = top_tilted + tl.log(total_tilted)
        risk = (log_tilted - log_ref) / parameter - shift
    if MEASURE == 1:
        tail = (1.0 - parameter) * total_ref
        low = low - (tl.abs(low) * 3e-7 + 1e-30)
        mass_low, mass_high = total_ref, tl.zeros((), tl.float32)
        step = tl.arange(0, 16)
        for _ in range(ROUNDS):
            # The last of sixteen thresholds is the bracket's upper end itself.
            parts = (step + 1).to(tl.float32) / 16.0
            above = tl.where(step == 15, high, low + (high - low) * parts)
            masses = tl.zeros((16,), tl.float32)
            for start in range(0, vocabulary, BLOCK):
                at = start + lane
                inside = at < vocabulary
                z = _logits(policy, bias, row, at, inside, stride, scale, cap, HAS_BIAS, HAS_CAP)
                y = _logits(
                    ref,
                    bias_ref,
                    row,
                    at,
                    inside,
                    stride,
                    scale_ref,
                    cap_ref,
                    HAS_BIAS_REF,
                    HAS_CAP_REF,
                )
                z, y = z - top, y - top_ref
                over = (y - z)[:, None] > above[None, :]
                masses += tl.sum(tl.where(over, tl.exp(y)[:, None], 0.0), axis=0)
            found = tl.minimum(tl.sum((masses > tail).to(tl.int32), axis=0), 15)
            if found > 0:
                low = tl.sum(tl.where(step == found - 1, above, 0.0), axis=0)
                mass_low = tl.sum(tl.where(step == found - 1, masses, 0.0), axis=0)
            high = tl.sum(tl.where(step == found, above, 0.0), axis=0)
            mass_high = tl.sum(tl.where(step == found, masses, 0.0), axis=0)
        share = (tail - mass_high) / tl.maximum(mass_low - mass_high, 1e-38)
        share = tl.minimum(tl.maximum(share, 0.0), 1.0)
        worst, mass = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
        for start in range(0, vocabulary, BLOCK):
            at = start + lane
            inside = at < vocabulary
            z = _logits(policy, bias, row, at, inside, stride, scale, cap, HAS_BIAS, HAS_CAP)
            y = _logits(
                ref,
                bias_ref,
                row,
                at,
                inside,
                stride,
                scale_ref,
                cap_ref,
                HAS_BIAS_REF,
                HAS_CAP_REF,
            )
            z, y = z - top, y - top_ref
            d = y - z
            part = tl.where(d > high, 1.0, tl.where(d > low, share, 0.0)) * tl.exp(y)
            worst += tl.sum(tl.where(part > 0.0, part * d, 0.0), axis=0)
            mass += tl.sum(part, axis=0)
        risk = (worst - shift * mass) / tail
        mass = mass / tail
    label = tl.load(labels + row)
    z = tl.load(policy + row * stride + label).to(tl.float32)
    y = tl.load(ref + row * stride + label).to(tl.float32)
    if HAS_BIAS:
        z += tl.load(bias + label).to(tl.float32)
    if HAS_BIAS_REF:
        y += tl.load(bias_ref + label).to(tl.float32)
    z = _cap(z * scale, cap, HAS_CAP)
    y = _cap(y * scale_ref, cap_ref, HAS_CAP_REF)
    infinite = float("inf")
    tl.store(stats + row, (z - top) - log_policy)
    tl.store(stats + n_rows + row, (y - top_ref) - log_ref)
    tl.store(stats + 2 * n_rows + row, tl.where(kl > _HUGE, infinite, kl))
    tl.store(stats + 3 * n_rows + row, tl.where(risk > _HUGE, infinite, risk))
    tl.store(stats + 4 * n_rows + row, log_policy - weighted / total)
    rows += row * 9
    tl.store(rows, top)
    tl.store(rows + 1, log_policy)
    tl.store(rows + 2, top_ref)
    tl.store(rows + 3, log_ref)
    tl.store(rows + 4, low)
    tl.store(rows + 5, high)
    tl.store(rows + 6, share)
    tl.store(rows + 7, log_tilted)
    tl.store(rows + 8, mass)


@triton.jit
def _gradient(
    policy,
    ref,
    bias,
    bias_ref,
    labels,
    rows,
    by_logp,
    by_risk,
    out,
    vocabulary,
    stride,
    scale,
    scale_ref,
    cap,
    cap_ref,
    parameter,
    HAS_BIAS: tl.constexpr,
    HAS_BIAS_REF: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_CAP_REF: tl.constexpr,
    MEASURE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < vocabulary
    z = _logits(policy, bias, row, at, inside, stride, scale, cap, HAS_BIAS, HAS_CAP)
    y = _logits(
        ref, bias_ref, row, at, inside, stride, scale_ref, cap_ref, HAS_BIAS_REF, HAS_CAP_REF
    )
    kept = rows + row * 9
    capped = tl.where(z > _POSSIBLE, z / cap, 0.0)
    z, y = z - tl.load(kept), y - tl.load(kept + 2)
    d = y - z
    if MEASURE == 2:
        tilted = tl.where(y > _POSSIBLE, y + parameter * d, _FLOOR)
        q = tl.exp(tilted - tl.load(kept + 7))
    else:
        q = tl.exp(y - tl.load(kept + 3))
    if MEASURE == 1:
        low, high, share = tl.load(kept + 4), tl.load(kept + 5), tl.load(kept + 6)
        q *= tl.where(d > high, 1.0, tl.where(d > low, share, 0.0)) / (1.0 - parameter)
    p = tl.exp(z - tl.load(kept + 1))
    logp_weight, risk_weight = tl.load(by_logp + row), tl.load(by_risk + row)
    grad = (risk_weight * tl.load(kept + 8) - logp_weight) * p - risk_weight * q
    grad += tl.where(at == tl.load(labels + row), logp_weight, 0.0)
    if HAS_CAP:
        grad *= 1.0 - capped * capped
    grad *= scale
    tl.store(out + row * stride + at, grad.to(out.dtype.element_ty), mask=inside)


class TritonRows:
    """The interface of `native.Rows`, for products on a GPU (or interpreted)."""

    def __init__(
        self,
        products: Tensor,
        products_ref: Tensor,
        head: Head,
        head_ref: Head,
        labels: Tensor,
        risk: Risk,
    ) -> None:
        n, vocabulary = products.shape
        self._products = products
        self._rows = products.new_empty(n, _ROW_FLOATS, dtype=torch.float32)
        biases = [products if h.bias is None else h.bias for h in (head, head_ref)]
        self._tensors = products, products_ref, *biases, labels.contiguous()
        self._numbers = (
            vocabulary,
            products.stride(0),
            head.scale,
            head_ref.scale,
            head.softcap or 1.0,
            head_ref.softcap or 1.0,
            risk.parameter or 0.0,
        )
        # CVaR at 0 is the mean.
        measure = 0 if risk.name == "cvar" and not risk.parameter else MEASURES[risk.name]
        self._constants = {
            "HAS_BIAS": head.bias is not None,
            "HAS_BIAS_REF": head_ref.bias is not None,
            "HAS_CAP": head.softcap is not None,
            "HAS_CAP_REF": head_ref.softcap is not None,
            "MEASURE": measure,
            "BLOCK": _BLOCK,
            "num_warps": _WARPS,
        }

    def _device(self) -> AbstractContextManager[Any]:
        # Kernels start on the current device, which need not be the tensors' own.
        products = self._products
        return torch.cuda.device(products.device) if products.is_cuda else nullcontext()

    def statistics(self) -> Tensor:
        """`logp_policy, logp_ref, kl, risk, entropy` as [5, C]."""
        n = len(self._products)
        stats = self._products.new_empty(5, n, dtype=torch.float32)
        kernel: Any = _statistics
        with self._device():
            kernel[(n,)](
                *self._tensors,
                stats,
                self._rows,
                n,
                *self._numbers,
                ROUNDS=_ROUNDS,
                **self._constants,
            )
        return stats

    def gradient(self, by_logp: Tensor, by_risk: Tensor, keep: bool) -> Tensor:
        """Derivative [C, V] by the policy's products, which it replaces unless they are kept."""
        n, vocabulary = self._products.shape
        out = torch.empty_like(self._products) if keep else self._products
        weights = by_logp.float().contiguous(), by_risk.float().contiguous()
        kernel: Any = _gradient
        with self._device():
            kernel[(n, triton.cdiv(vocabulary, _BLOCK))](
                *self._tensors, self._rows, *weights, out, *self._numbers, **self._constants
            )
        return out
