"""Layers compiled for training, and only for that."""

from pathlib import Path
from typing import Any

import pytest
import torch

from riskalign import RSAConfig, RSATrainer
from riskalign.tokens import native
from riskalign.training.modules import repeated_layers
from tests import tiny


@pytest.mark.slow
@pytest.mark.skipif(native.library() is None, reason="no C compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning"
)  # dynamo's own look
def test_compiled_layers_train_alike(tmp_path: Path) -> None:
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
        assert all(layer._compiled_call_impl is None for layer in repeated_layers(model))
    assert len(losses[0]) == 3
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-4, atol=1e-5)


def test_mode_and_backend_ask_for_compiled_layers_too(tmp_path: Path) -> None:
    for name, value in (("torch_compile_mode", "default"), ("torch_compile_backend", "inductor")):
        settings: dict[str, Any] = {"output_dir": str(tmp_path), name: value}
        args = RSAConfig(**settings)
        assert args.compile_layers
        assert not args.torch_compile
