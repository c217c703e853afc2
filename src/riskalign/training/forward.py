"""The loss as if it were the forward pass of a wrapped model."""

from collections.abc import Callable
from typing import TypeVar, cast

from torch import nn

T = TypeVar("T")


def call_through(wrapper: nn.Module, module: nn.Module, function: Callable[[], T]) -> T:
    """Call `function` as if it were the forward pass of `module` inside its distributed wrapper.

    Wrappers and hooks (DDP, FSDP) prepare weights and the exchange of gradients around the
    model's forward pass, while the loss needs parts of the model (body and head) that this pass
    does not return. `wrapper` may be `module` itself.
    """
    own = module.__dict__.get("forward")

    def restore() -> None:
        if own is None:
            module.__dict__.pop("forward", None)
        else:
            module.forward = own

    def forward() -> T:
        restore()
        return function()

    module.forward = forward
    try:
        return cast("T", wrapper())
    finally:
        restore()
