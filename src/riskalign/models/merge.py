"""The cheap stand-in for the dial: a model whose weights lie between, or beyond, two models'.

Called RSA(P) in RSA (arXiv 2512.24263) and P-SACPO in SACPO (arXiv 2404.11049).
"""

import copy
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from riskalign.errors import InputError
from riskalign.models.weights import check_tensor

#: Beyond it sums lose their digits.
LARGEST_WEIGHT = 100


def refuse_weight(w: float) -> None:
    """Raise `InputError` for a weight between two models that is out of range."""
    if not abs(w) <= LARGEST_WEIGHT:
        raise InputError(
            f"w: {w} is not in [{-LARGEST_WEIGHT}, {LARGEST_WEIGHT}]; 0 is the first model, 1 the "
            "second."
        )


def plain_copy(model: nn.Module) -> Any:
    """A copy of the model with its adapters, if any, merged into the weights."""
    copied: Any = copy.deepcopy(model)
    return copied.merge_and_unload() if isinstance(copied, PeftModel) else copied


@torch.no_grad()
def merge(model_1: nn.Module, model_2: nn.Module, w: float) -> PreTrainedModel:
    """A new plain model with weights `(1 - w) * model_1 + w * model_2`.

    `w` 0 gives model_1 and 1 gives model_2, exactly; any other number inter- or extrapolates. An
    adapter counts by the weights it results in, so two LoRA models average their effective
    weights, not their factors. The result has model_1's dtypes and devices; sums are taken in
    float32 at least.

    Raises `InputError` when `w` is beyond 100 either way, where sums lose their digits, a weight of
    the result is not finite, or the models differ in architecture or sizes.
    """
    refuse_weight(w)
    merged: PreTrainedModel = plain_copy(model_1)
    other = plain_copy(model_2) if isinstance(model_2, PeftModel) else model_2
    target, source = merged.state_dict(), other.state_dict()
    different = sorted(set(target) ^ set(source))
    different = different or [n for n in target if target[n].shape != source[n].shape]
    if different:
        raise InputError(
            "merge: the two models differ in architecture or size, for example at "
            f"{different[0]!r}; both must come from the same start model."
        )
    done: set[int] = set()
    for name, weight in target.items():
        # Tied weights appear under each of their names and must be averaged once.
        if not weight.is_floating_point() or weight.data_ptr() in done:
            continue
        done.add(weight.data_ptr())
        wide = torch.promote_types(weight.dtype, torch.float32)
        added = source[name].to(device=weight.device, dtype=wide)
        weight.copy_((1 - w) * weight.to(wide) + w * added)
        check_tensor(weight, name, f"merge at w = {w:g}")
    merged.train(False)
    return merged
