"""4-bit weights: near the plain ones, and refused where they cannot be had."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from riskalign.errors import InputError
from riskalign.models import check_4bit, load_in_4bit, load_model, save_model
from tests import tiny

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes"
)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    save_model(tiny.make_model(), tiny.make_tokenizer(), tmp_path / "model")
    return str(tmp_path / "model")


@needs_library
def test_linear_layers_have_4_bits(folder: str) -> None:
    plain: Any = load_model(folder).model
    model: Any = load_in_4bit(folder, compute_dtype=torch.float32)
    layer = model.model.layers[0].self_attn.q_proj
    assert type(layer).__name__ == "Linear4bit"
    assert layer.weight.dtype == torch.uint8
    # Two weights a byte.
    assert layer.weight.numel() == plain.model.layers[0].self_attn.q_proj.weight.numel() // 2
    # About a tenth of normal weights' size.
    given = plain.model.layers[0].self_attn.q_proj.weight.detach()
    functional: Any = importlib.import_module("bitsandbytes.functional")
    found = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert 0 < float((found - given).norm() / given.norm()) < 0.2


@needs_library
def test_an_adapter_is_refused(folder: str, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="is an adapter, which cannot be loaded in 4 bits"):
        load_in_4bit(str(tmp_path / "adapter"), compute_dtype=torch.float32)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'riskalign\[quant\]'"):
        check_4bit()
