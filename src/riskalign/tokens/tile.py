"""The statistics and the gradient of a tile of C tokens by the whole vocabulary of V entries.

With `policy` the softmax of the policy's logits and `q` the risk's worst-case density, the
derivatives with respect to those logits are

    d logp_policy = onehot(label) - policy        d risk = sum(q) * policy - q

`plain_tile` computes them with PyTorch for any measure, device and precision; `rows.c`, on a CPU,
and `triton_rows.py`, on a GPU, do the same for the common ones, reading each row from memory once.

Shape legend: N response tokens, C tokens of one tile, V vocabulary, H hidden.
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
from riskalign.tokens.head import Comparison, Head

# Elements that plain code passes over at once: on a CPU few enough to stay near the cache and
# below the size from which the C library asks the system for every tensor's memory anew.
_SMALL_TILE = {"cpu": 3 << 20, "other": 1 << 62}


def comparison(
    hidden: Tensor, head: Head, hidden_ref: Tensor, head_ref: Head, labels: Tensor, risk: Risk
) -> Comparison:
    """What `token_stats` compares; products run in autocast's precision, or the inputs' own.

    Raises `ValueError` for shapes that do not fit or labels outside the vocabulary.
    """
    n_tokens = labels.shape[0] if labels.ndim == 1 else -1
    for name, states, own in (("policy", hidden, head), ("reference", hidden_ref, head_ref)):
        if states.ndim != 2 or states.shape != (n_tokens, own.weight.shape[1]):
            raise ValueError(
                f"{name}: hidden states {list(states.shape)} do not fit labels "
                f"{list(labels.shape)} and head {list(own.weight.shape)}"
            )
    vocabulary, other = head.weight.shape[0], head_ref.weight.shape[0]
    if vocabulary != other:
        raise ValueError(
            f"policy and reference differ in vocabulary: {vocabulary} and {other} entries"
        )
    if labels.dtype != torch.long or labels.device != hidden.device:
        raise ValueError(
            f"labels must be int64 and on {hidden.device}, not {labels.dtype} on {labels.device}"
        )
    if n_tokens and not 0 <= int(labels.min()) <= int(labels.max()) < vocabulary:
        raise ValueError(f"labels must lie in [0, {vocabulary})")
    device = hidden.device.type
    products = torch.promote_types(hidden.dtype, head.weight.dtype)
    if torch.is_autocast_enabled(device):
        products = torch.get_autocast_dtype(device)
    return Comparison(head, head_ref, risk, products, torch.promote_types(products, torch.float32))


class Tile(NamedTuple):
    """`stats` [5, C], rows in the order of `TokenStats`, and what a backward pass needs.

    `gradient(by_logp [C], by_risk [C], keep)` gives the derivative [C, V] of a loss with these
    derivatives by `logp_policy` and `risk`, with respect to the product `h @ weight.T`. Call it
    before the workspace holds the next tile; without `keep` it may take the tile's place.
    """

    stats: Tensor
    gradient: Callable[[Tensor, Tensor, bool], Tensor]


class _Distribution(NamedTuple):
    """Next-token probabilities [C, V] as `scaled / total`, and their logarithms; `total` is [C].

    `slope` is the derivative of each logit by the plain product `h @ weight.T`: the head's scale,
    or, where the head has a cap, a tensor [C, V].
    """

    log_probs: Tensor
    scaled: Tensor
    total: Tensor
    slope: Tensor | float

    def expectation(self, values_CV: Tensor) -> Tensor:
        """`E[values]` [C]; an entry of probability 0 counts for nothing, whatever its value."""
        products = self.scaled * values_CV
        expected = products.sum(-1).div_(self.total)
        if bool(expected.isnan().any()):
            products.masked_fill_(self.log_probs == -torch.inf, 0.0)
            expected = products.sum(-1).div_(self.total)
        return expected


def _distribution(products_CV: Tensor, head: Head, dtype: torch.dtype) -> _Distribution:
    """The distributions over V entries, in `dtype`, from `h @ weight.T`, which may be overwritten.

    torch's log_softmax adds up a long float32 row less exactly than `sum` does: at 49 152
    entries the probabilities' total was off by up to 6e-6, here by 6e-7.
    """
    logits = products_CV.to(dtype)
    if head.bias is not None:
        logits += head.bias
    slope: Tensor | float = head.scale
    if head.scale != 1.0:
        logits *= head.scale
    if head.softcap is not None:
        logits.div_(head.softcap).tanh_()
        slope = logits.square().neg_().add_(1.0).mul_(head.scale)
        logits *= head.softcap
    logits -= logits.amax(-1, keepdim=True)
    scaled = logits.exp()
    total = scaled.sum(-1)
    logits -= total.log().unsqueeze(-1)
    return _Distribution(logits, scaled, total, slope)


def plain_tile(
    compared: Comparison, products_CV: Tensor, products_ref_CV: Tensor, labels_C: Tensor
) -> Tile:
    """A tile from both models' products `h @ weight.T`, which it may overwrite."""
    policy = _distribution(products_CV, compared.head, compared.stats_dtype)
    ref = _distribution(products_ref_CV, compared.head_ref, compared.stats_dtype)
    label = labels_C.unsqueeze(-1)
    logp_policy = policy.log_probs.gather(-1, label).squeeze(-1)
    logp_ref = ref.log_probs.gather(-1, label).squeeze(-1)
    entropy = -policy.expectation(policy.log_probs)
    losses = torch.sub(ref.log_probs, policy.log_probs, out=policy.log_probs)
    kl = ref.expectation(losses)
    value, density = compared.risk(losses, ref.log_probs)

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


def _joined(parts: Sequence[Tile]) -> Tile:
    """One tile of several tiles' tokens."""
    sizes = [part.stats.shape[1] for part in parts]

    def gradient(by_logp: Tensor, by_risk: Tensor, keep: bool) -> Tensor:
        weights = zip(parts, by_logp.split(sizes), by_risk.split(sizes), strict=True)
        return torch.cat([part.gradient(logp, risk, keep) for part, logp, risk in weights])

    return Tile(torch.cat([part.stats for part in parts], dim=1), gradient)


def _fast_rows(products: Tensor, risk: Risk) -> Any:
    """What computes these products' rows faster than plain code, or None."""
    if native.takes(products, risk):
        return native.Rows
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    if (
        products.is_cuda
        and products.dtype in kinds
        and len(products)
        and risk.name in native.MEASURES
        and os.environ.get("RISKALIGN_NATIVE", "1") != "0"
        and importlib.util.find_spec("triton") is not None
    ):
        return importlib.import_module("riskalign.tokens.triton_rows").TritonRows
    return None


class Tiles:
    """Tiles of at most `most` tokens, made one after the other in one workspace."""

    def __init__(self, compared: Comparison, most: int) -> None:
        def detached(head: Head) -> Head:
            bias = None if head.bias is None else head.bias.detach()
            weight = head.weight.detach().to(compared.product_dtype)
            return replace(head, weight=weight, bias=bias)

        heads = detached(compared.head), detached(compared.head_ref)
        self._compared = compared._replace(head=heads[0], head_ref=heads[1])
        self.weight = heads[0].weight
        self._workspace = [self.weight.new_empty(most, len(self.weight)) for _ in range(2)]

    def __call__(self, hidden_CH: Tensor, hidden_ref_CH: Tensor, labels_C: Tensor) -> Tile:
        """The tile of these tokens; the one before it is no longer valid."""
        compared = self._compared
        products, products_ref = (
            torch.mm(
                hidden.detach().to(compared.product_dtype), head.weight.T, out=room[: len(hidden)]
            )
            for hidden, head, room in zip(
                (hidden_CH, hidden_ref_CH), compared[:2], self._workspace, strict=True
            )
        )
        if fast := _fast_rows(products, compared.risk):
            rows = fast(compared, products, products_ref, labels_C)
            stats = rows.statistics()
            if stats is not None:
                return Tile(stats, rows.gradient)
        size = _SMALL_TILE.get(products.device.type, _SMALL_TILE["other"]) // products.shape[1]
        pieces = [t.split(max(16, size)) for t in (products, products_ref, labels_C)]
        parts = [plain_tile(compared, *piece) for piece in zip(*pieces, strict=True)]
        return parts[0] if len(parts) == 1 else _joined(parts)


def gradients(
    compared: Comparison,
    inputs: Sequence[Any],
    wanted: Sequence[bool],
    parts: Sequence[slice | Tensor],
    derivatives: Callable[[int, Tensor], tuple[Tensor, ...]],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients by the policy's hidden states, head weight and bias, None where not `wanted`.

    `inputs`: hidden states [N, H], weight, bias or None, the reference's hidden states, labels [N].
    `parts`: the tokens of each tile. `derivatives(i, stats [5, C])` gives the derivatives [C] of
    the loss by the i-th tile's `logp_policy` and `risk`.
    """
    hidden, weight, bias, hidden_ref, labels = inputs

    def zeros(like: Tensor) -> Tensor:
        return torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))

    by_hidden = torch.zeros_like(hidden) if wanted[0] else None
    by_weight = zeros(weight) if wanted[1] else None
    by_bias = zeros(bias) if wanted[2] and bias is not None else None
    with torch.autocast(hidden.device.type, enabled=False):
        tiles = Tiles(compared, max((len(labels[tokens]) for tokens in parts), default=0))
        for i, tokens in enumerate(parts):
            hidden_CH = hidden[tokens].detach()
            tile = tiles(hidden_CH, hidden_ref[tokens], labels[tokens])
            by_logp, by_risk = derivatives(i, tile.stats)
            grad_CV = tile.gradient(by_logp, by_risk, False)
            if by_bias is not None:
                by_bias += grad_CV.sum(0, dtype=by_bias.dtype)
            grad_CV = grad_CV.to(compared.product_dtype)
            if by_hidden is not None:
                by_hidden[tokens] = (grad_CV @ tiles.weight).to(by_hidden.dtype)
            if by_weight is not None:
                hidden_CH = hidden_CH.to(compared.product_dtype)
                if by_weight.dtype == compared.product_dtype:
                    by_weight.addmm_(grad_CV.T, hidden_CH)
                else:
                    by_weight += grad_CV.T @ hidden_CH
    return (
        by_hidden,
        None if by_weight is None else by_weight.to(weight.dtype),
        None if by_bias is None else by_bias.to(bias.dtype),
    )
