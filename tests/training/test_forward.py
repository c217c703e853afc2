"""A call through a distributed wrapper reaches the model and leaves it as it was."""

from typing import Any

import pytest
from torch import nn

from riskalign.training.modules import call_through


class Wrapper(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.calls = 0

    def forward(self) -> Any:
        self.calls += 1
        return self.module()


def test_call_goes_through_the_wrapper_and_leaves_no_trace() -> None:
    module = nn.Linear(1, 1)
    wrapper = Wrapper(module)
    before = dict(vars(module))
    assert call_through(wrapper, module, lambda: 7) == 7
    assert wrapper.calls == 1
    assert vars(module) == before

    def fail() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        call_through(wrapper, module, fail)
    assert vars(module) == before
    assert call_through(module, module, lambda: 8) == 8
    vars(module)["forward"] = lambda x: x  # as accelerate replaces it
    before = dict(vars(module))
    assert call_through(wrapper, module, lambda: 9) == 9
    assert vars(module) == before
