"""`rows.c` for GPUs: token statistics and their gradient as Triton kernels.

One program has one token's row of both models' products, which it reads from the chip's second
cache level, where a tile of them mostly stays. CVaR's quantile is found by parting its bracket into
sixteen in each of eight rounds; nothing waits for the host. Logits are taken less their row's
maximum, and losses compared as differences `d = logit_ref - logit_policy` of such, which the
logarithms of the two totals shift all alike. Tested against `tile.plain_tile`, on a CPU by Triton's
interpreter.
"""

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from riskalign.tokens.head import Comparison
from riskalign.tokens.native import MEASURES

_BLOCK = tl.constexpr(1024)
_WARPS = 8
_ROUNDS = tl.constexpr(8)
_ROW_FLOATS = tl.constexpr(9)
# Logits are not less: a forbidden entry's is finite, so that no difference of two is NaN.
_FLOOR = tl.constexpr(-1e30)
_POSSIBLE = tl.constexpr(-1e29)
_HUGE = tl.constexpr(1e25)


@triton.jit
def _logits(products, bias, at, vocabulary, scale, cap):
    inside = at < vocabulary
    z = tl.load(products + at, mask=inside, other=0.0).to(tl.float32)
    if bias is not None:
        z += tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    z *= scale
    if cap is not None:
        z = cap * (1.0 - 2.0 / (1.0 + tl.exp(2.0 * z / cap)))
    # A NaN must stay one, so that divergence is seen.
    z = tl.where(z > _FLOOR, z, tl.where(z == z, _FLOOR, z))
    return tl.where(inside, z, _FLOOR)


@triton.jit
def _statistics(
    policy,
    ref,
    bias,
    bias_ref,
    labels,
    rows,
    stats,
    vocabulary,
    scale,
    scale_ref,
    cap,
    cap_ref,
    parameter,
    MEASURE: tl.constexpr,
):
    row, n_rows = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    policy += row * vocabulary
    ref += row * vocabulary
    lane = tl.arange(0, _BLOCK)
    top = tl.full((), _FLOOR, tl.float32)
    top_ref = top
    for start in range(0, vocabulary, _BLOCK):
        z = _logits(policy, bias, start + lane, vocabulary, scale, cap)
        y = _logits(ref, bias_ref, start + lane, vocabulary, scale_ref, cap_ref)
        top = tl.maximum(top, tl.max(z, axis=0))
        top_ref = tl.maximum(top_ref, tl.max(y, axis=0))
    total = tl.zeros((), tl.float32)
    weighted, total_ref, gap, total_tilted = total, total, total, total
    top_tilted = tl.full((), _FLOOR, tl.float32)
    low, high = -top_tilted, top_tilted
    for start in range(0, vocabulary, _BLOCK):
        z = _logits(policy, bias, start + lane, vocabulary, scale, cap) - top
        y = _logits(ref, bias_ref, start + lane, vocabulary, scale_ref, cap_ref) - top_ref
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
        for _ in range(_ROUNDS):
            # The last of sixteen thresholds is the bracket's upper end itself.
            parts = (step + 1).to(tl.float32) / 16.0
            above = tl.where(step == 15, high, low + (high - low) * parts)
            masses = tl.zeros((16,), tl.float32)
            for start in range(0, vocabulary, _BLOCK):
                z = _logits(policy, bias, start + lane, vocabulary, scale, cap) - top
                y = _logits(ref, bias_ref, start + lane, vocabulary, scale_ref, cap_ref) - top_ref
                over = (y - z)[:, None] > above[None, :]
                masses += tl.sum(tl.where(over, tl.exp(y)[:, None], 0.0), axis=0)
            first = tl.minimum(tl.sum((masses > tail).to(tl.int32), axis=0), 15)
            if first > 0:
                low = tl.sum(tl.where(step == first - 1, above, 0.0), axis=0)
                mass_low = tl.sum(tl.where(step == first - 1, masses, 0.0), axis=0)
            high = tl.sum(tl.where(step == first, above, 0.0), axis=0)
            mass_high = tl.sum(tl.where(step == first, masses, 0.0), axis=0)
        share = (tail - mass_high) / tl.maximum(mass_low - mass_high, 1e-38)
        share = tl.minimum(tl.maximum(share, 0.0), 1.0)
        worst, mass = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
        for start in range(0, vocabulary, _BLOCK):
            z = _logits(policy, bias, start + lane, vocabulary, scale, cap) - top
            y = _logits(ref, bias_ref, start + lane, vocabulary, scale_ref, cap_ref) - top_ref
            d = y - z
            part = tl.where(d > high, 1.0, tl.where(d > low, share, 0.0)) * tl.exp(y)
            worst += tl.sum(tl.where(part > 0.0, part * d, 0.0), axis=0)
            mass += tl.sum(part, axis=0)
        risk = (worst - shift * mass) / tail
        mass = mass / tail
    label = tl.load(labels + row)
    z = _logits(policy, bias, label, vocabulary, scale, cap)
    y = _logits(ref, bias_ref, label, vocabulary, scale_ref, cap_ref)
    infinite = float("inf")
    stats += row
    tl.store(stats, (z - top) - log_policy)
    tl.store(stats + n_rows, (y - top_ref) - log_ref)
    tl.store(stats + 2 * n_rows, tl.where(kl > _HUGE, infinite, kl))
    tl.store(stats + 3 * n_rows, tl.where(risk > _HUGE, infinite, risk))
    tl.store(stats + 4 * n_rows, log_policy - weighted / total)
    rows += row * _ROW_FLOATS
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
    scale,
    scale_ref,
    cap,
    cap_ref,
    parameter,
    MEASURE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * _BLOCK + tl.arange(0, _BLOCK)
    z = _logits(policy + row * vocabulary, bias, at, vocabulary, scale, cap)
    y = _logits(ref + row * vocabulary, bias_ref, at, vocabulary, scale_ref, cap_ref)
    kept = rows + row * _ROW_FLOATS
    slope = 1.0
    if cap is not None:
        capped = tl.where(z > _POSSIBLE, z / cap, 0.0)
        slope = 1.0 - capped * capped
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
    grad *= slope
    grad *= scale
    tl.store(out + row * vocabulary + at, grad.to(out.dtype.element_ty), mask=at < vocabulary)


class TritonRows:
    """The interface of `native.Rows`, for products on a GPU (or interpreted)."""

    def __init__(
        self, compared: Comparison, products: Tensor, products_ref: Tensor, labels: Tensor
    ) -> None:
        head, ref, risk = compared.head, compared.head_ref, compared.risk
        self._products = products
        self._rows = products.new_empty(len(products), _ROW_FLOATS.value, dtype=torch.float32)
        self._tensors = products, products_ref, head.bias, ref.bias, labels.contiguous(), self._rows
        caps = head.softcap, ref.softcap
        self._numbers = products.shape[1], head.scale, ref.scale, *caps, risk.parameter or 0.0
        # CVaR at 0 is the mean.
        self._measure = 0 if risk.name == "cvar" and not risk.parameter else MEASURES[risk.name]

    def _run(self, kernel: Any, grid: tuple[int, ...], *tensors: Tensor) -> None:
        # Kernels start on the current device, which need not be the tensors' own.
        products = self._products
        with torch.cuda.device(products.device) if products.is_cuda else nullcontext():
            kernel[grid](
                *self._tensors, *tensors, *self._numbers, MEASURE=self._measure, num_warps=_WARPS
            )

    def statistics(self) -> Tensor:
        """`logp_policy, logp_ref, kl, risk, entropy` as [5, C]."""
        n = len(self._products)
        stats = self._products.new_empty(5, n, dtype=torch.float32)
        self._run(_statistics, (n,), stats)
        return stats

    def gradient(self, by_logp: Tensor, by_risk: Tensor, keep: bool) -> Tensor:
        """Derivative [C, V] by the policy's products, which it replaces unless they are kept."""
        n, vocabulary = self._products.shape
        out = torch.empty_like(self._products) if keep else self._products
        weights = by_logp.float().contiguous(), by_risk.float().contiguous()
        self._run(_gradient, (n, triton.cdiv(vocabulary, _BLOCK.value)), *weights, out)
        return out
