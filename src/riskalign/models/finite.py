"""Weights that no model can work with: not finite, or an embedding or output layer of zeros."""

from typing import Any

import torch
from torch import Tensor, nn

from riskalign.errors import InputError


def check_weights(model: nn.Module, whose: str) -> None:
    """Raise `InputError` for weights that are not finite, or whose tokens are all alike.

    A number that is not finite spreads over all logits, and a drawn token or a distance made of
    them looks like a good one. With an embedding or an output layer of zeros every text, or every
    next token, is like any other. `whose` begins the message.
    """
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor) or tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())  # tied weights have several names
        check_tensor(tensor, name, whose)
    for what in ("input", "output"):
        find: Any = getattr(model, f"get_{what}_embeddings", None)
        weight = None if find is None else getattr(find(), "weight", None)
        if isinstance(weight, Tensor) and weight.numel() and not bool(weight.any()):
            raise InputError(
                f"{whose}: every weight of its {what} embeddings is 0, so it was never trained or "
                "the file is broken. Fetch or train the model again."
            )


@torch.no_grad()
def check_tensor(tensor: Tensor, name: str, whose: str) -> None:
    """Raise `InputError` naming the tensor where one of its numbers is not finite."""
    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
        return
    # Least and largest carry NaN along and need no copy; 8-bit floats have no such function.
    wide = tensor if tensor.element_size() > 1 else tensor.float()
    if not all(bool(end.isfinite()) for end in wide.aminmax()):
        raise InputError(
            f"{whose}: its weight {name!r} holds NaN or infinity, so the file is broken or "
            "training diverged. Fetch or train the model again."
        )
