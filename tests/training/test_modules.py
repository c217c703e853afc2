"""Modules in training: calls through wrappers, compiled layers, bf16."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from riskalign import RSAConfig, RSATrainer
from riskalign.training.modules import bf16_is_fast, call_through, call_within, repeated_layers
from tests import tiny


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


def test_calls_go_through_all_modules_with_their_inputs() -> None:
    layers = [nn.Linear(1, 1), nn.Linear(1, 1)]
    seen: list[nn.Module] = []

    def add_one(module: nn.Module, inputs: tuple[int]) -> tuple[int]:
        seen.append(module)
        return (inputs[0] + 1,)

    for layer in layers:
        layer.register_forward_pre_hook(add_one)
    assert call_within(layers, lambda x: x, 5) == 7
    assert call_within([], lambda x: x, 5) == 5
    assert seen == layers
    assert not any("forward" in vars(layer) for layer in layers)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning"
)  # dynamo's own look
def test_compiled_layers_train_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tracing layers is ours to show; that traces become fast programs is torch's.
    traced: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        traced.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    losses = []
    for compiled in (False, True):
        model = tiny.make_model("llama")
        args = RSAConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2,
            max_steps=3,
            logging_steps=1,
            learning_rate=1e-2,
            save_strategy="no",
            report_to=[],
            torch_compile=compiled,
            use_cpu=True,
        )
        assert args.compile_layers == compiled
        trainer = RSATrainer(
            model,
            args=args,
            train_dataset=tiny.make_pairs(6),
            processing_class=tiny.make_tokenizer(),
        )
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
        assert bool(traced) == compiled
        assert all(layer._compiled_call_impl is None for layer in repeated_layers(model))
    assert len(losses[0]) == 3
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-4, atol=1e-5)


def test_mode_and_backend_ask_for_compiled_layers_too(tmp_path: Path) -> None:
    for name, value in (("torch_compile_mode", "default"), ("torch_compile_backend", "inductor")):
        settings: dict[str, Any] = {"output_dir": str(tmp_path), name: value}
        args = RSAConfig(**settings)
        assert args.compile_layers
        assert not args.torch_compile


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({"avx2": True}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, False),
        ({"amx_bf16": True}, True),
        ({}, False),
    ],
)
def test_processor_decides(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert bf16_is_fast() is fast
    assert bf16_is_fast("meta") is False
