"""Parameters counted from a configuration are those of the real model."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from torch import nn

from riskalign.errors import InputError
from riskalign.models.outline import outline, read_config
from tests import tiny

FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("gpt2", {}),
    ("gpt_neox", {}),
    ("gemma2", {"head_dim": 8}),
    ("qwen2", {}),
    ("mixtral", {"num_local_experts": 3}),
    ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
]


def counts(model: nn.Module) -> dict[str, tuple[int, bool]]:
    return {name: (p.numel(), p.requires_grad) for name, p in model.named_parameters()}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:The following .*_pattern")
@pytest.mark.parametrize(("kind", "fields"), FAMILIES)
def test_counts_are_the_real_models(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    real = tiny.make_model(kind, **fields)
    real.config.save_pretrained(tmp_path)
    for name in (tmp_path, tmp_path / "config.json"):
        assert counts(outline(read_config(str(name)))) == counts(real)
    adapter = LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM")
    planned = outline(real.config, adapter=adapter)
    assert counts(planned) == counts(get_peft_model(real, adapter))
    assert {parameter.device.type for parameter in planned.parameters()} == {"meta"}


def test_refusals(tmp_path: Path) -> None:
    for content, word in (
        ("no", "no configuration"),
        (json.dumps({"model_type": "no such type"}), "no configuration"),
        (json.dumps({"model_type": "llama", "quantization_config": {}}), "quantised already"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match=word):
            read_config(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="adapter's folder"):
        read_config(str(tmp_path))
    with pytest.raises(InputError, match="no configuration"):
        read_config(str(tmp_path / "none"))
    with pytest.raises(InputError, match="no causal language model"):
        outline(tiny.make_config("vit"))
