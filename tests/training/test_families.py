"""One step at learning rate 0 of every family: ln 2 and no risk, however the family drops out."""

import gc
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from riskalign.data import load_pairs, tokenize_rows
from riskalign.training import RSATrainer
from riskalign.training.modules import repeated_layers
from tests import tiny

MakeTrainer = Callable[..., RSATrainer]

_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "rotary_dim": 4}
_EXPERTS = {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
_HEAD = {"head_dim": 8}
#: Families, and what some need to be tiny.
FAMILIES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "biogpt": {},
    "bloom": {"n_layer": 2, "n_head": 4},
    "codegen": _GPT,
    "cohere": {},
    "cohere2": _HEAD,
    "ernie4_5": _HEAD,
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 2},
    "falcon": {"alibi": True},
    "gemma": _HEAD,
    "gemma2": _HEAD,
    "gemma3_text": _HEAD,
    "glm": _HEAD,
    "glm4": _HEAD,
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "gpt_neox": {},
    "gpt_oss": _HEAD | _EXPERTS,
    "gptj": _GPT,
    "granite": {},
    "granitemoe": _EXPERTS,
    "helium": _HEAD,
    "hunyuan_v1_dense": _HEAD,
    "llama": {},
    "mistral": {},
    "mixtral": _EXPERTS,
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 512},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmoe": _EXPERTS,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "persimmon": {},
    "phi": {},
    "phi3": {},
    "phimoe": _EXPERTS,
    "qwen2": {},
    "qwen2_moe": _EXPERTS | {"shared_expert_intermediate_size": 16},
    "qwen3": _HEAD,
    "qwen3_moe": _HEAD | _EXPERTS,
    "seed_oss": _HEAD,
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
    "xglm": {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4},
}
_NOISE = ("drop", "jitter")
# What is drawn after the model's own noise must not count, and some dropouts are of no use here.
_UNUSED = ("classifier", "summary")


@pytest.fixture(autouse=True, scope="module")
def _little_garbage() -> Iterator[None]:
    """Every trainer has garbage collected, which looks through all libraries' objects, too."""
    gc.freeze()
    yield
    gc.unfreeze()


def _numbers(config: PreTrainedConfig) -> Iterator[tuple[Any, str]]:
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _numbers(value)
        elif any(part in name for part in _NOISE) and type(value) in (int, float):
            yield config, name


def _model(kind: str, *, noise: float) -> tuple[PreTrainedModel, int]:
    config = tiny.make_config(kind, **FAMILIES[kind])
    places = [(of, name) for of, name in _numbers(config) if not name.startswith(_UNUSED)]
    for of, name in places:
        # One family has only whole numbers for it.
        setattr(of, name, noise if isinstance(getattr(of, name), float) else math.ceil(noise))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model, len(places)


@cache
def _inputs() -> dict[str, Any]:
    """Tokenized once for all families."""
    tokenizer = tiny.make_tokenizer()
    rows, _ = tokenize_rows(load_pairs(tiny.make_pairs(4)), tokenizer, max_length=512)
    return {"train_dataset": rows, "processing_class": tokenizer}


def _step(
    make_trainer: MakeTrainer, model: PreTrainedModel, *, adapter: bool = False, **options: Any
) -> dict[str, float]:
    inputs = dict(_inputs())
    if adapter:
        kind = model.config.model_type
        inputs["peft_config"] = LoraConfig(
            target_modules="all-linear",
            # A linear layer in name only.
            exclude_modules=r".*\.router" if kind == "phimoe" else None,
            fan_in_fan_out=kind == "gpt2",
            task_type="CAUSAL_LM",
            r=2,
        )
    trainer = make_trainer(model, learning_rate=0.0, max_steps=1, trainer=inputs, **options)
    trainer.train()
    first: dict[str, float] = trainer.state.log_history[0]
    return first


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys")
@pytest.mark.parametrize("kind", FAMILIES)
def test_nothing_is_dropped(make_trainer: MakeTrainer, kind: str) -> None:
    model, _ = _model(kind, noise=0.3)
    for adapter in (False, True):
        log = _step(make_trainer, model, adapter=adapter, cache_reference=adapter)
        assert log["loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert log["risk/chosen"] == pytest.approx(0.0, abs=1e-4)
        assert log["risk/rejected"] == pytest.approx(0.0, abs=1e-4)
        assert log["grad_norm"] > 0


@pytest.mark.parametrize(
    "kind", ["biogpt", "bloom", "falcon", "gpt2", "mpt", "opt", "phimoe", "seed_oss", "starcoder2"]
)
def test_the_noise_is_there_to_be_dropped(make_trainer: MakeTrainer, kind: str) -> None:
    """Else the test above would show nothing; and the reference never drops out."""
    model, places = _model(kind, noise=0.3)
    assert places
    log = _step(make_trainer, model, disable_dropout=False)
    assert abs(log["loss"] - math.log(2)) > 1e-4


@pytest.mark.parametrize("kind", ["opt", "phimoe", "gpt2"])
def test_a_checkpoint_computes_the_same_again(make_trainer: MakeTrainer, kind: str) -> None:
    """Checkpoints need the training mode that dropout goes by."""

    def gradient(checkpointing: bool) -> dict[str, torch.Tensor]:
        model, _ = _model(kind, noise=0.3)
        trainer = make_trainer(
            model,
            gradient_checkpointing=checkpointing,
            max_steps=1,
            learning_rate=1e-2,
            trainer=_inputs(),
        )
        calls: list[int] = []
        first = next(m for m in repeated_layers(model)[0].modules() if not list(m.children()))
        first.register_forward_hook(lambda *_: calls.append(1))
        trainer.train()
        assert len(calls) == (2 if checkpointing else 1)  # once more in the backward pass
        return {name: value.detach() for name, value in model.named_parameters()}

    plain, again = gradient(False), gradient(True)
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-6, msg=name)
