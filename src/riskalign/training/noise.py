"""Training without dropout, of whatever kind and under whatever name."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

# Libraries whose modules compute the same in either mode, noise and checkpoints aside.
_KNOWN = ("torch.", "transformers.", "peft.")


def switch_off_noise(modules: Sequence[nn.Module]) -> None:
    """Have modules compute as in evaluation; call it before every forward pass for training.

    A model's noise has many names (dropout layers, numbers beside functional dropout, left-out
    layers, jitter of a router) and one switch, `training`. It stays off until somebody calls
    `train`, so that a checkpoint computes the same again in the backward pass. Of classes that
    come with a model only numbers named after dropout are set to 0: such code may do without
    gradients in evaluation.
    """
    for module in modules:
        if not module.training:
            continue
        if not type(module).__module__.startswith(_KNOWN):
            _zero_dropout(module)
        elif isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            layer: Any = module  # it makes checkpoints in training mode only
            if not isinstance(layer._gradient_checkpointing_func, _QuietCheckpoint):
                layer._gradient_checkpointing_func = _QuietCheckpoint(
                    layer, layer._gradient_checkpointing_func
                )
        else:
            module.training = False


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it, all of the model's modules are in evaluation mode."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@dataclass
class _QuietCheckpoint:
    """A layer's checkpoint in which the layer itself computes as in evaluation."""

    layer: nn.Module
    checkpoint: Callable[..., Any]

    def __call__(self, function: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        def quiet(*inputs: Any) -> Any:
            self.layer.training = False
            try:
                return function(*inputs)
            finally:
                self.layer.training = True

        return self.checkpoint(quiet, *inputs, **options)


def _zero_dropout(module: nn.Module) -> None:
    for name, value in vars(module).items():
        if "drop" in name.lower() and isinstance(value, float):
            setattr(module, name, 0.0)
