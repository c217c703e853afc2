"""Weights that an engine keeps in parts (FSDP2, DeepSpeed's ZeRO-3): their shapes, them whole."""

import contextlib
import importlib
from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module was made of; FSDP2 puts one of its own before it."""
    kinds = type(module).__mro__
    return kinds[2] if kinds[1].__name__ == "FSDPModule" else kinds[0]


def is_partitioned(tensor: Tensor) -> bool:
    """Whether ZeRO-3 holds a parameter in parts: its own shape is then empty."""
    return hasattr(tensor, "ds_id")


def shape_of(tensor: Tensor) -> torch.Size:
    """A parameter's shape, whether or not it is in parts."""
    return torch.Size(getattr(tensor, "ds_shape", tensor.shape))


def whole(tensors: Iterable[Tensor]) -> AbstractContextManager[object]:
    """Within it, ZeRO-3's parameters are whole, to be read; every process must enter it."""
    parts = [tensor for tensor in tensors if is_partitioned(tensor)]
    if not parts:
        return contextlib.nullcontext()
    zero = importlib.import_module("deepspeed").zero
    gathered: AbstractContextManager[object] = zero.GatheredParameters(parts)
    return gathered
