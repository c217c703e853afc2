"""The statistics and the gradient of a tile of C tokens by the whole vocabulary of V entries.

With `policy` the softmax of the policy's logits and `q` the risk's worst-case density, the
derivatives with respect to those logits are

    d logp_policy = onehot(label) - policy        d risk = sum(q) * policy - q

`plain_tile` computes them with PyTorch for any measure, device and precision; `rows.c`, on a CPU,
and `triton_rows.py`, on a GPU, do the same for the common ones, reading each row from memory once.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from riskalign.risk import Risk
from riskalign.tokens import native
from riskalign.tokens.distribution import distribution, expectation
from riskalign.tokens.head import Head
from riskalign.tokens.stats import MEASURES

# Elements that plain code passes over at once: on a CPU few enough to stay near the cache and
# below the size from which the C library asks the system for every tensor's memory anew.
_SMALL_TILE = {"cpu": 3 << 20, "other": 1 << 62}


class Tile(NamedTuple):
    """`stats` [5, C], rows in the order of `TokenStats`, and what a backward pass needs.

    `gradient(by_logp [C], by_risk [C], keep)` gives the derivative [C, V] of a loss with these
    derivatives by `logp_policy` and `risk`, with respect to the product `h @ weight.T`. Call it
    before the workspace holds the next tile; without `keep` it may take the tile's place.
    """

    stats: Tensor
    gradient: Callable[[Tensor, Tensor, bool], Tensor]


def plain_tile(
    products_CV: Tensor,
    products_ref_CV: Tensor,
    head: Head,
    head_ref: Head,
    labels_C: Tensor,
    risk: Risk,
    stats_dtype: torch.dtype,
) -> Tile:
    """A tile from both models' products `h @ weight.T`, which it may overwrite."""
    policy = distribution(products_CV, head, stats_dtype)
    ref = distribution(products_ref_CV, head_ref, stats_dtype)
    label = labels_C.unsqueeze(-1)
    logp_policy = policy.log_probs.gather(-1, label).squeeze(-1)
    logp_ref = ref.log_probs.gather(-1, label).squeeze(-1)
    entropy = -expectation(policy, policy.log_probs)
    losses = torch.sub(ref.log_probs, policy.log_probs, out=policy.log_probs)
    kl = expectation(ref, losses)
    value, density = risk(losses, ref.log_probs)

    def gradient(by_logp: Tensor, by_risk: Tensor, _keep: bool) -> Tensor:
        by_logp, by_risk = by_logp.unsqueeze(-1), by_risk.unsqueeze(-1)
        weight = by_risk * density.sum(-1, keepdim=True) - by_logp
        grad = policy.scaled * (weight / policy.total.unsqueeze(-1))
        grad.addcmul_(density, by_risk, value=-1.0)
        grad.scatter_add_(-1, label, by_logp)
        if isinstance(policy.slope, Tensor) or policy.slope != 1.0:
            grad.mul_(policy.slope)
        return grad

    return Tile(torch.stack((logp_policy, logp_ref, kl, value, entropy)), gradient)


def _fast_rows(products: Tensor, risk: Risk) -> Any:
    """What computes these products' rows faster than plain code, or None."""
    if native.takes(products, risk):
        return native.Rows
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    if not (products.is_cuda and products.dtype in kinds and len(products)):
        return None
    if os.environ.get("RISKALIGN_NATIVE", "1") == "0":
        return None
    if risk.name not in MEASURES or importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("riskalign.tokens.triton_rows").TritonRows


def _joined(parts: Sequence[Tile]) -> Tile:
    """One tile of several tiles' tokens."""
    sizes = [part.stats.shape[1] for part in parts]

    def gradient(by_logp: Tensor, by_risk: Tensor, keep: bool) -> Tensor:
        weights = zip(by_logp.split(sizes), by_risk.split(sizes), strict=True)
        return torch.cat(
            [part.gradient(*own, keep) for part, own in zip(parts, weights, strict=True)]
        )

    return Tile(torch.cat([part.stats for part in parts], dim=1), gradient)


class Tiles:
    """Tiles of one policy and one reference, made one after the other in one workspace.

    Matrix products run in `product_dtype`, everything else in `stats_dtype`. A tile holds at most
    `most` tokens.
    """

    def __init__(
        self,
        head: Head,
        head_ref: Head,
        risk: Risk,
        product_dtype: torch.dtype,
        stats_dtype: torch.dtype,
        most: int,
    ) -> None:
        self.head, self.head_ref = (
            replace(
                h,
                weight=h.weight.detach().to(product_dtype),
                bias=None if h.bias is None else h.bias.detach(),
            )
            for h in (head, head_ref)
        )
        self.risk, self.product_dtype, self.stats_dtype = risk, product_dtype, stats_dtype
        shape = (most, head.weight.shape[0])
        self._workspace = [
            torch.empty(shape, dtype=product_dtype, device=head.weight.device) for _ in range(2)
        ]

    def _product(self, hidden_CH: Tensor, head: Head, room: Tensor) -> Tensor:
        hidden_CH = hidden_CH.detach().to(self.product_dtype)
        return torch.mm(hidden_CH, head.weight.T, out=room[: len(hidden_CH)])

    def __call__(self, hidden_CH: Tensor, hidden_ref_CH: Tensor, labels_C: Tensor) -> Tile:
        """The tile of these tokens; the one before it is no longer valid."""
        products = self._product(hidden_CH, self.head, self._workspace[0])
        products_ref = self._product(hidden_ref_CH, self.head_ref, self._workspace[1])
        rest = (self.head, self.head_ref, labels_C, self.risk)
        fast = _fast_rows(products, self.risk)
        if fast is not None:
            rows = fast(products, products_ref, *rest)
            stats = rows.statistics()
            if stats is not None:
                return Tile(stats, rows.gradient)
        size = _SMALL_TILE.get(products.device.type, _SMALL_TILE["other"]) // products.shape[1]
        pieces = [t.split(max(16, size)) for t in (products, products_ref, labels_C)]
        parts = [
            plain_tile(one, ref, self.head, self.head_ref, labels, self.risk, self.stats_dtype)
            for one, ref, labels in zip(*pieces, strict=True)
        ]
        return parts[0] if len(parts) == 1 else _joined(parts)


class Accumulated:
    """Gradients by the policy's hidden states, head weight and bias, summed over tiles.

    Each is a tensor where it is wanted, else None.
    """

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: tuple[bool, ...]
    ) -> None:
        def zeros(like: Tensor) -> Tensor:
            return torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))

        self._like = hidden, weight, bias
        self.hidden = torch.zeros_like(hidden) if wanted[0] else None
        self.weight = zeros(weight) if wanted[1] else None
        self.bias = None if bias is None or not wanted[2] else zeros(bias)

    def add(self, grad_CV: Tensor, hidden_CH: Tensor, rows: slice | Tensor, tiles: Tiles) -> None:
        """Add one tile's derivative by the products; `hidden_CH` are its tokens' states."""
        if self.bias is not None:
            self.bias += grad_CV.sum(0, dtype=self.bias.dtype)
        grad_CV = grad_CV.to(tiles.product_dtype)
        if self.hidden is not None:
            self.hidden[rows] = (grad_CV @ tiles.head.weight).to(self.hidden.dtype)
        if self.weight is not None:
            hidden_CH = hidden_CH.detach().to(tiles.product_dtype)
            if self.weight.dtype == tiles.product_dtype:
                self.weight.addmm_(grad_CV.T, hidden_CH)
            else:
                self.weight += grad_CV.T @ hidden_CH

    def results(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The three gradients in their own tensors' precision."""
        found = (self.hidden, self.weight, self.bias)
        hidden, weight, bias = (
            None if grad is None or like is None else grad.to(like.dtype)
            for grad, like in zip(found, self._like, strict=True)
        )
        return hidden, weight, bias
