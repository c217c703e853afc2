"""What training does to a model's modules: no noise, compiled layers, calls through wrappers."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from riskalign.models.sharding import plain_class

T = TypeVar("T")

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
        if not plain_class(module).__module__.startswith(_KNOWN):
            for name, value in vars(module).items():
                if "drop" in name.lower() and isinstance(value, float):
                    setattr(module, name, 0.0)
        elif isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            layer: Any = module  # it makes checkpoints in training mode only
            checkpoint = layer._gradient_checkpointing_func
            if not isinstance(checkpoint, _QuietCheckpoint):
                layer._gradient_checkpointing_func = _QuietCheckpoint(layer, checkpoint)
        else:
            module.training = False


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


@contextlib.contextmanager
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


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The members of the model's longest list of modules of one class: its decoder layers."""
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    alike = [members for members in lists if len(set(map(type, members))) == 1]
    return max(alike, key=len, default=[])


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
        for layer, call in zip(layers, before, strict=True):
            layer._compiled_call_impl = call


def call_through(
    wrapper: nn.Module, module: nn.Module, function: Callable[..., T], *inputs: Any
) -> T:
    """Call `function(*inputs)` as if it were the forward pass of `module` inside its wrapper.

    Wrappers and hooks (DDP, FSDP, DeepSpeed) prepare weights and the exchange of gradients around
    the model's forward pass, while the loss needs parts of the model (body and head) that this
    pass does not return. `wrapper` may be `module` itself.
    """
    given = vars(module)
    before = {name: given[name] for name in ("forward",) if name in given}

    def restore() -> None:
        given.pop("forward", None)
        given.update(before)

    def forward(*inputs: Any) -> T:
        restore()
        return function(*inputs)

    module.forward = forward
    try:
        return cast("T", wrapper(*inputs))
    finally:
        restore()


def call_within(modules: Sequence[nn.Module], function: Callable[..., T], *inputs: Any) -> T:
    """Call `function(*inputs)` within the forward passes of all modules, the first outermost.

    The inputs go through every module's hooks: engines learn from them when its backward pass is
    over.
    """
    if not modules:
        return function(*inputs)
    first, *others = modules
    inner: Callable[..., T] = partial(call_within, others, function)
    return call_through(first, first, inner, *inputs)


def bf16_is_fast(device: torch.device | str = "cpu") -> bool:
    """Whether a device multiplies bf16 matrices faster than float32 ones.

    A processor without such instructions computes the same values ten times slower than in
    float32, and nothing says so. AVX-512's bf16 instructions alone do not make up for it:
    docs/log.md.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu":
        return False
    get_capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)  # torch >= 2.10
    capabilities = get_capabilities()
    return any(capabilities.get(name) for name in ("amx_bf16", "bf16"))
