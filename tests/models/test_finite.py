"""Weights that are broken are refused by name at every door that reads or makes them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from riskalign.baselines.scalar import load_scalar_model, save_scalar_model, scalar_model
from riskalign.errors import InputError
from riskalign.models import check_tensor, check_weights, load_model, save_model
from riskalign.models.encoder import load_encoder
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


def test_layers_of_zeros() -> None:
    model = tiny.make_model(tie_word_embeddings=False)
    with torch.no_grad():
        # What a trained model may have: a layer that is switched off.
        model.get_parameter("model.layers.1.mlp.down_proj.weight").zero_()
    check_weights(model, "model")
    for what in ("input", "output"):
        model = tiny.make_model(tie_word_embeddings=False)
        layer: Any = getattr(model, f"get_{what}_embeddings")()
        with torch.no_grad():
            layer.weight.zero_()
        with pytest.raises(InputError, match=f"every weight of its {what} embeddings is 0"):
            check_weights(model, "model")


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
