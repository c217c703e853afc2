"""Broken weights are refused at every door; saving replaces a folder whole; the fingerprint."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, PreTrainedModel

from riskalign.errors import InputError
from riskalign.models import check_tensor, check_weights, fingerprint, load_model, save_model
from riskalign.models.encoder import load_encoder
from riskalign.scorers.scalar import load_scalar_model, save_scalar_model, scalar_model
from riskalign.training import RSAConfig, RSATrainer
from tests import tiny
from tests.broken import BROKEN, NORM, break_model, save_broken

NAN, INF = float("nan"), float("inf")


def test_sound_weights_pass() -> None:
    for kind in ("llama", "gpt2", "mistral"):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            check_weights(tiny.make_model(kind, dtype=dtype), "model")


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_number_is_enough(bad: float, dtype: torch.dtype) -> None:
    model = tiny.make_model(dtype=dtype)
    with torch.no_grad():
        model.get_parameter(NORM)[5] = bad
    with pytest.raises(InputError, match=rf"^mine: its weight '{NORM}' holds NaN or infinity"):
        check_weights(model, "mine")


def test_eight_bits_and_what_is_no_float() -> None:
    check_tensor(torch.tensor([1.0, 448.0]).to(torch.float8_e4m3fn), "a", "b")
    with pytest.raises(InputError, match="'a'"):
        check_tensor(torch.tensor([1.0, NAN]).to(torch.float8_e4m3fn), "a", "b")
    for tensor in (torch.tensor([1]), torch.empty(0), torch.empty(3, device="meta")):
        check_tensor(tensor, "a", "b")


_LLAMA = [
    "model.embed_tokens", "lm_head", "model.norm", "model.layers.1.input_layernorm",
    *(f"model.layers.0.self_attn.{name}_proj" for name in "qkv"),
    *(f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up")),
]  # fmt: skip
_GPT2 = [
    "transformer.wte", "transformer.wpe", "transformer.ln_f", "transformer.h.1.ln_2",
    "transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc",
]  # fmt: skip
_EXPERTS = ["model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.self_attn.q_norm.weight"]


def _zeroed(kind: str, weights: list[str], **config: Any) -> PreTrainedModel:
    # Biases of 1: a norm of zeros gives the same for every text, and yet not zeros.
    model = tiny.make_model(kind, **config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.fill_(1)
        for name in weights:
            model.get_parameter(name).zero_()
    return model


@pytest.mark.parametrize(
    ("kind", "weight"),
    [
        *(("llama", f"{name}.weight") for name in _LLAMA),
        *(("gpt2", f"{name}.weight") for name in _GPT2),
        *(("qwen3_moe", name) for name in _EXPERTS),
        ("gemma", "model.layers.1.mlp.up_proj.weight"),
        ("nemotron", "model.layers.1.self_attn.q_proj.weight"),
        ("cohere", "model.layers.1.input_layernorm.weight"),
    ],
)
def test_zeros_where_none_may_be(kind: str, weight: str) -> None:
    model = _zeroed(kind, [weight], tie_word_embeddings=kind == "gpt2")
    words = rf"^mine: every number of its weight '{re.escape(weight)}' is 0"
    with pytest.raises(InputError, match=words):
        check_weights(model, "mine")
    with torch.no_grad():
        model.get_parameter(weight).view(-1)[-1] = 1e-6
    check_weights(model, "mine")


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        # What a trained model may have: a layer that is switched off by its last matrix.
        ("llama", ["o_proj.weight", "down_proj.weight"]),
        ("gpt2", ["c_proj.weight", "bias"]),
        ("gpt_neox", ["attention.dense.weight", "dense_4h_to_h.weight", "bias"]),
        ("qwen3_moe", ["mlp.gate.weight", "experts.down_proj"]),
        # Norms that scale by 1 + w.
        ("gemma", ["norm.weight"]),
        ("gemma2", ["norm.weight"]),
        ("nemotron", ["norm.weight", "norm.bias"]),
    ],
)
def test_zeros_that_a_model_may_have(kind: str, ends: list[str]) -> None:
    names = [name for name, _ in tiny.make_model(kind).named_parameters()]
    chosen = [[name for name in names if name.endswith(end)] for end in ends]
    assert all(chosen)
    check_weights(_zeroed(kind, [name for some in chosen for name in some]), "model")


def test_zeros_of_what_is_new(tmp_path: Path) -> None:
    """An adapter before its first step, on top of a model or in it, and a head of std 0."""
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(tiny.make_model(), config)
    assert not any(bool(p.any()) for name, p in adapted.named_parameters() if "lora_B" in name)
    check_weights(adapted, "model")
    with torch.no_grad():
        name = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"
        adapted.get_parameter(name).zero_()
    with pytest.raises(InputError, match=re.escape(name)):
        check_weights(adapted, "model")
    inside = tiny.make_model()
    inside.add_adapter(config)
    check_weights(inside, "model")
    save_scalar_model(scalar_model(tiny.make_model(), head_std=0.0), tmp_path / "scalar")
    load_scalar_model(tmp_path / "scalar")


def test_an_encoder_without_kinds_of_text() -> None:
    config = BertConfig(vocab_size=30, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    encoder: Any = BertModel(config)
    with torch.no_grad():
        encoder.embeddings.token_type_embeddings.weight.zero_()
    check_weights(encoder, "encoder")
    with torch.no_grad():
        encoder.embeddings.LayerNorm.weight.zero_()
    with pytest.raises(InputError, match=r"'embeddings.LayerNorm.weight' is 0"):
        check_weights(encoder, "encoder")


@pytest.mark.parametrize("how", BROKEN)
def test_no_door_takes_or_makes_them(how: str, tmp_path: Path) -> None:
    folder = save_broken(tmp_path / "broken", how)
    words = BROKEN[how]
    with pytest.raises(InputError, match=words):
        load_model(folder)
    with pytest.raises(InputError, match=words):
        load_encoder(folder)
    model = break_model(tiny.make_model(), how)
    with pytest.raises(InputError, match=words):
        save_model(model, tiny.make_tokenizer(), tmp_path / "new")
    with pytest.raises(InputError, match=words):
        save_scalar_model(scalar_model(model), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("how", BROKEN)
def test_the_trainer_takes_none(how: str, tmp_path: Path) -> None:
    args = RSAConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    sound, broken = tiny.make_model(), break_model(tiny.make_model(), how)
    options: dict[str, Any] = {
        "args": args,
        "train_dataset": tiny.make_pairs(2),
        "processing_class": tiny.make_tokenizer(),
    }
    with pytest.raises(InputError, match=f"^model:{BROKEN[how]}"):
        RSATrainer(model=broken, **options)
    with pytest.raises(InputError, match=f"^ref_model:{BROKEN[how]}"):
        RSATrainer(model=sound, ref_model=broken, **options)
    trainer = RSATrainer(model=sound, **options)
    break_model(sound, how)
    with pytest.raises(InputError, match=BROKEN[how]):
        trainer.save_model(str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("bad", [NAN, 3e38])
def test_adapters(bad: float, tmp_path: Path) -> None:
    """Read as they are, and once more when they are merged: finite factors can overflow."""
    base = tmp_path / "base"
    save_model(tiny.make_model(), tiny.make_tokenizer(), base)
    model = load_model(base).model
    model.name_or_path = str(base)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora" in name:
                weight.fill_(bad)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    where = "lora_" if bad != bad else "merged into .*q_proj.weight"
    with pytest.raises(InputError, match=rf"{where}.* holds NaN or infinity"):
        load_model(tmp_path / "adapter")


def test_scalar_models(tmp_path: Path) -> None:
    save_scalar_model(scalar_model(tiny.make_model()), tmp_path / "scalar")
    load_scalar_model(tmp_path / "scalar")
    for file, name in (("head.safetensors", "weight"), ("backbone/model.safetensors", "norm")):
        path = tmp_path / "scalar" / file
        before = load_file(path)
        after = {key: value.clone() for key, value in before.items()}
        key = next(key for key in after if name in key)
        after[key].view(-1)[0] = INF
        save_file(after, path, metadata={"format": "pt"})
        with pytest.raises(InputError, match=f"{key}' holds NaN or infinity"):
            load_scalar_model(tmp_path / "scalar")
        save_file(before, path, metadata={"format": "pt"})


def test_fingerprint_feels_one_bit_and_nothing_else() -> None:
    model = tiny.make_model()
    before = fingerprint(model)
    assert before == fingerprint(tiny.make_model())
    assert before != fingerprint(tiny.make_model(seed=1))
    assert before != fingerprint(tiny.make_model(dtype=torch.bfloat16))
    with torch.no_grad():
        weight = next(model.parameters())
        weight.view(torch.int32)[0] ^= 1
    assert before != fingerprint(model)


def test_saving_replaces_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    save_model(tiny.make_model(), tiny.make_tokenizer(), target)
    (target / "stale.txt").touch()
    save_model(tiny.make_model(seed=1), tiny.make_tokenizer(), target)
    assert not (target / "stale.txt").exists()
    assert load_model(target).revision_or_hash == fingerprint(tiny.make_model(seed=1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_interrupted_saving_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    save_model(tiny.make_model(), tiny.make_tokenizer(), target)
    model = tiny.make_model(seed=1)

    def disk_full(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_model(model, tiny.make_tokenizer(), target)
    assert load_model(target).revision_or_hash == fingerprint(tiny.make_model())
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
