"""Folders, adapters, 4-bit weights near the plain ones, and every refusal with its remedy."""

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from riskalign.errors import InputError
from riskalign.models import check_4bit, fingerprint, load_in_4bit, load_model, save_model
from riskalign.models.loading import check_targets
from tests import tiny

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes"
)
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def _logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS).logits
    return logits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny.make_model(), tiny.make_tokenizer(), tmp_path / "tiny")
    return tmp_path / "tiny"


def test_folder_round_trip(folder: Path) -> None:
    loaded = load_model(folder)
    assert loaded.source == str(folder)
    assert not loaded.model.training
    assert loaded.notes == ()
    torch.testing.assert_close(_logits(loaded.model), _logits(tiny.make_model()), rtol=0, atol=0)
    assert loaded.revision_or_hash == fingerprint(tiny.make_model())
    assert loaded.tokenizer.chat_template == tiny.CHAT_TEMPLATE


def test_dtype_is_honoured(folder: Path) -> None:
    assert load_model(folder, dtype=torch.bfloat16).model.dtype == torch.bfloat16


def _adapter(model: PreTrainedModel, base_name: str, folder: Path) -> torch.Tensor:
    model.name_or_path = base_name
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    torch.manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted.eval()
    expected = _logits(adapted)
    adapted.save_pretrained(str(folder))
    return expected


def test_adapter_folder_is_merged_into_its_base(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    expected = _adapter(load_model(folder).model, str(folder), adapter)
    loaded = load_model(adapter)
    torch.testing.assert_close(_logits(loaded.model), expected, rtol=1e-4, atol=1e-4)
    assert (_logits(loaded.model) - _logits(tiny.make_model())).abs().max() > 0.01
    assert loaded.tokenizer.eos_token == "<|im_end|>"
    assert not any("lora" in name for name in loaded.model.state_dict())
    assert all(weight.requires_grad for weight in loaded.model.parameters())


def test_adapter_with_added_tokens_is_loaded_back(folder: Path, tmp_path: Path) -> None:
    base, tokenizer = load_model(folder).model, tiny.make_tokenizer()
    tokenizer.add_tokens([f"<|new{i}|>" for i in range(20)])
    base.resize_token_embeddings(len(tokenizer))
    base.config._name_or_path = str(folder)
    lora = LoraConfig(
        r=2,
        target_modules=["q_proj"],
        modules_to_save=["embed_tokens", "lm_head"],
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(base, lora)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    adapted.peft_config["default"].base_model_name_or_path = str(folder)
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=True)
    tokenizer.save_pretrained(tmp_path / "adapter")
    loaded = load_model(tmp_path / "adapter")
    assert len(loaded.tokenizer) == len(tokenizer)
    torch.testing.assert_close(_logits(loaded.model), _logits(adapted.eval()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("targets", "fits"),
    [
        ("all-linear", True),
        (["q_proj"], True),
        (("nothing", "layers.0.mlp.up_proj"), True),
        (r".*\.[qv]_proj", True),
        (["nothing"], False),
        ("q_proj", False),  # PEFT matches a text whole
        (["proj"], False),
    ],
)
def test_target_modules_are_found_or_refused(folder: Path, targets: Any, fits: bool) -> None:
    if fits:
        check_targets(folder, targets)
    else:
        with pytest.raises(InputError, match=r"target_modules: .*names no layer.*q_proj"):
            check_targets(folder, targets)


def test_adapter_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_model(tiny.make_model(hidden_size=64), tiny.make_tokenizer(), other)
    _adapter(load_model(other).model, str(folder), tmp_path / "adapter")
    with pytest.raises(InputError, match="does not fit"):
        load_model(tmp_path / "adapter")


def test_adapter_without_base_or_with_pickle(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    _adapter(load_model(folder).model, str(folder), adapter)
    settings = adapter / "adapter_config.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps(content | {"base_model_name_or_path": None}))
    with pytest.raises(InputError, match="base_model_name_or_path is "):
        load_model(adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(InputError, match=r"pickled \(adapter_model.bin\)"):
        load_model(adapter)


def test_adapter_settings_that_are_no_json(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    _adapter(load_model(folder).model, str(folder), adapter)
    settings = adapter / "adapter_config.json"
    settings.write_text(settings.read_text()[:40])
    with pytest.raises(InputError, match=r"adapter_config.json: not usable JSON"):
        load_model(adapter)
    settings.write_text("[]")
    with pytest.raises(InputError, match=r"adapter_config.json: holds list"):
        load_model(adapter)


def test_missing_path_names_its_neighbours(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder or file.*Nearest: .*tiny\."):
        load_model(folder.parent / "tinny")
    with pytest.raises(InputError, match="does not exist either"):
        load_model("/no-such-folder/model")
    with pytest.raises(InputError, match=r"Nearest: smollm2-135m\."):
        load_model("smolm2-135m")
    with pytest.raises(InputError, match="name is empty"):
        load_model("")


def test_folder_without_model(tmp_path: Path) -> None:
    (tmp_path / "weights.gguf").touch()
    with pytest.raises(InputError, match=r"no config.json.*weights.gguf: give that file's path"):
        load_model(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="is a file, but not a"):
        load_model(tmp_path / "notes.txt")


def test_pickled_and_missing_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickled \(pytorch_model.bin\).*save_pretrained"):
        load_model(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="no safetensors weights"):
        load_model(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model\.safetensors: not usable"):
        load_model(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, tied: bool) -> None:
    folder = tmp_path / "model"
    save_model(tiny.make_model(tie_word_embeddings=tied), tiny.make_tokenizer(), folder)
    load_model(folder)
    weights = load_file(folder / "model.safetensors")
    missing = {k: v for k, v in weights.items() if k != "model.norm.weight"}
    save_file(missing, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 of the model's weights are missing, 'model\.norm"):
        load_model(folder)
    short = weights | {"model.norm.weight": torch.ones(5)}
    save_file(short, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(folder)


def test_missing_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(InputError, match="no tokenizer can be loaded"):
        load_model(folder)


def test_tokenizer_larger_than_embedding(tmp_path: Path) -> None:
    tokenizer = tiny.make_tokenizer()
    save_model(tiny.make_model(vocab_size=len(tokenizer) - 1), tokenizer, tmp_path / "small")
    with pytest.raises(InputError, match=r"do not belong together.*resize_token_embeddings"):
        load_model(tmp_path / "small")


def test_pad_token_and_chat_template_fallbacks_are_noted(tmp_path: Path) -> None:
    tokenizer = tiny.make_tokenizer(pad_token=None, chat_template=None)
    save_model(tiny.make_model(pad_token_id=None), tokenizer, tmp_path / "bare")
    loaded = load_model(tmp_path / "bare")
    assert loaded.tokenizer.pad_token == "<|im_end|>"
    assert loaded.model.config.pad_token_id == loaded.tokenizer.eos_token_id
    assert len(loaded.notes) == 2


@pytest.mark.real_model
@pytest.mark.slow
def test_default_model_answers() -> None:
    loaded = load_model("smollm2-135m")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs: Any = loaded.tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    model: Any = loaded.model
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in loaded.tokenizer.decode(output[0])


@needs_library
def test_linear_layers_have_4_bits(folder: Path) -> None:
    plain: Any = load_model(folder).model
    model: Any = load_in_4bit(str(folder), compute_dtype=torch.float32)
    layer = model.model.layers[0].self_attn.q_proj
    assert type(layer).__name__ == "Linear4bit"
    assert layer.weight.dtype == torch.uint8
    # Nor do they take the way of processors with bf16 that has no gradient.
    assert not getattr(layer, "support_avx512bf16_for_cpu", False)
    # Two weights a byte.
    assert layer.weight.numel() == plain.model.layers[0].self_attn.q_proj.weight.numel() // 2
    # About a tenth of normal weights' size.
    given = plain.model.layers[0].self_attn.q_proj.weight.detach()
    functional: Any = importlib.import_module("bitsandbytes.functional")
    found = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert 0 < float((found - given).norm() / given.norm()) < 0.2


@needs_library
def test_an_adapter_is_refused_in_4_bits(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="is an adapter, which cannot be loaded in 4 bits"):
        load_in_4bit(str(tmp_path / "adapter"), compute_dtype=torch.float32)


def test_4_bits_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'riskalign\[quant\]'"):
        check_4bit()
