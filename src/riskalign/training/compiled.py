"""Compiling a model layer by layer."""

import contextlib
from collections.abc import Iterator, Sequence

from torch import nn


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The members of the model's longest list of modules of one class: its decoder layers."""
    lists = [
        list(module)
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len({type(member) for member in module}) == 1
    ]
    return max(lists, key=len, default=[])


@contextlib.contextmanager
def compiled_layers(models: Sequence[nn.Module]) -> Iterator[None]:
    """Within it, the models' decoder layers run compiled; all layers of a model share one program.

    Compiling layers rather than whole models takes seconds instead of minutes, and fuses what lies
    between matrix products: less time, and fewer activations to keep for the backward pass.
    """
    layers = [layer for model in models for layer in repeated_layers(model)]
    before = [layer._compiled_call_impl for layer in layers]
    for layer in layers:
        layer.compile(dynamic=True)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer._compiled_call_impl = own
