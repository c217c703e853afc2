"""One model's next-token distributions on a chunk of C tokens, from its head's products."""

from typing import NamedTuple

import torch
from torch import Tensor

from riskalign.tokens.head import Head


class Distribution(NamedTuple):
    """Probabilities [C, V] as `scaled / total`, with their logarithms; `total` is [C].

    `slope` is the derivative of each logit by the plain product `h @ weight.T`: the head's scale,
    or, where the head has a cap, a tensor [C, V].
    """

    log_probs: Tensor
    scaled: Tensor
    total: Tensor
    slope: Tensor | float


def distribution(products_CV: Tensor, head: Head, dtype: torch.dtype) -> Distribution:
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
    return Distribution(logits, scaled, total, slope)


def expectation(under: Distribution, values_CV: Tensor) -> Tensor:
    """`E[values]` [C]; an entry of probability zero counts for nothing, whatever its value."""
    products = under.scaled * values_CV
    expected = products.sum(-1).div_(under.total)
    if bool(expected.isnan().any()):
        products.masked_fill_(under.log_probs == -torch.inf, 0.0)
        expected = products.sum(-1).div_(under.total)
    return expected
