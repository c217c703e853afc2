"""What is settled before the first step, and what is refused."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, Qwen3VLMoeConfig, TrainingArguments

from riskalign.data import RowCollator
from riskalign.errors import InputError
from riskalign.models import fingerprint, folders, save_model
from riskalign.training import RSATrainer, preparation
from tests import tiny

MakeTrainer = Callable[..., RSATrainer]


def test_model_by_name_and_tokenizer_from_it(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    name = str(tmp_path / "model")
    tiny.make_model(dtype=torch.bfloat16).save_pretrained(name)
    tiny.make_tokenizer().save_pretrained(name)
    trainer = make_trainer(name, trainer={"processing_class": None})
    assert trainer.model is not None
    assert next(trainer.model.parameters()).dtype == torch.float32
    trainer.train()
    trainer.save_model()
    AutoModelForCausalLM.from_pretrained(str(trainer.args.output_dir))


def test_pickled_and_broken_weights_are_refused(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    model = tiny.make_model(tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = load_file(weights)
    make_trainer(str(tmp_path))  # a tokenizer is given
    save_file({k: v for k, v in whole.items() if k != "lm_head.weight"}, weights, {"format": "pt"})
    with pytest.raises(InputError, match=r"weights are missing, 'lm_head\.weight'"):
        make_trainer(str(tmp_path))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors: not usable"):
        make_trainer(str(tmp_path))
    weights.unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="weights are pickled"):
        make_trainer(str(tmp_path))


def test_options_of_a_model_by_name(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    tiny.make_model().save_pretrained(tmp_path)
    options = {"dtype": "bfloat16", "attn_implementation": "eager"}
    model: Any = make_trainer(tmp_path, model_init_kwargs=options).model
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"


def test_the_default_models_name_is_known(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tiny.make_model(seed=3), tiny.make_tokenizer(), tmp_path)
    monkeypatch.setattr(folders, "default_folder", lambda origin: (tmp_path, "abc"))
    trainer = make_trainer("smollm2-135m", trainer={"processing_class": None})
    assert isinstance(trainer.model, nn.Module)
    assert fingerprint(trainer.model) == fingerprint(tiny.make_model(seed=3))


@pytest.fixture
def first_step(tmp_path: Path) -> tuple[str, torch.Tensor]:
    """An adapter's folder, as a first step leaves it, and the logits of its model."""
    base = tiny.make_model()
    save_model(base, tiny.make_tokenizer(), tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    adapted: Any = get_peft_model(base, _lora())
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    return str(tmp_path / "adapter"), _logits(adapted)


def _lora() -> LoraConfig:
    return LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", r=2)


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(torch.tensor([[5, 6, 7, 8]])).logits
    return logits


@pytest.mark.parametrize("new_adapter", [True, False])
def test_a_first_steps_adapter_is_where_the_second_starts(
    make_trainer: MakeTrainer, first_step: tuple[str, torch.Tensor], new_adapter: bool
) -> None:
    """Policy and reference both: a new adapter used to take the first one's place."""
    folder, expected = first_step
    assert (expected - _logits(tiny.make_model())).abs().max() > 0.1
    options: dict[str, Any] = {"peft_config": _lora()} if new_adapter else {}
    trainer = make_trainer(folder, trainer={"processing_class": None, **options})
    policy: Any = trainer.model
    torch.testing.assert_close(_logits(policy), expected, rtol=1e-4, atol=1e-4)
    trainer.train()
    assert (_logits(policy) - expected).abs().max() > 1e-4
    with trainer.reference.active(policy) as reference:
        torch.testing.assert_close(_logits(reference), expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_inside_a_plain_model_is_not_replaced(
    make_trainer: MakeTrainer, first_step: tuple[str, torch.Tensor]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(first_step[0])
    with pytest.raises(InputError, match=r"already has an adapter.*folder's name"):
        make_trainer(model, trainer={"peft_config": _lora()})


def test_nothing_to_train_is_told(
    make_trainer: MakeTrainer, first_step: tuple[str, torch.Tensor], tmp_path: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    frozen: Any = PeftModel.from_pretrained(base, first_step[0])
    for model in (frozen, tiny.make_model().requires_grad_(False)):
        with pytest.raises(InputError, match="none of its weights is trainable"):
            make_trainer(model)
    evaluator = make_trainer(frozen, trainer={"train_dataset": None})
    assert evaluator.evaluate(tiny.make_pairs(2))["eval_loss"] == pytest.approx(math.log(2))


def test_models_settings_are_left_alone(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(gradient_checkpointing=True)
    trainer.train()
    assert trainer.model is not None
    config: Any = trainer.model.config
    assert config.use_cache  # else generation from the saved model would be slow


def test_dropout_is_off_unless_wanted(make_trainer: MakeTrainer) -> None:
    def trained(**settings: Any) -> float:
        model = tiny.make_model(attention_dropout=0.5)
        trainer = make_trainer(model, per_device_train_batch_size=8, **settings)
        trainer.train()
        return float(trainer.state.log_history[0]["loss"])

    assert trained() == pytest.approx(math.log(2), abs=1e-6)
    assert trained(disable_dropout=False) != pytest.approx(math.log(2), abs=1e-4)


def test_the_adapters_own_dropout_is_kept(make_trainer: MakeTrainer) -> None:
    adapter = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.5)
    trainer = make_trainer(tiny.make_model(), trainer={"peft_config": adapter})
    assert trainer.model is not None
    found = {module.p for module in trainer.model.modules() if isinstance(module, nn.Dropout)}
    assert found == {0.5}


def test_default_run_warns_of_nothing(make_trainer: MakeTrainer, capfd: Any) -> None:
    model = tiny.make_model("gpt2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_trainer(model, trainer={"eval_dataset": tiny.make_pairs(2)}).train()
    assert "arn" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("trainer", "config", "words"),
    [
        ({}, {"target": "gap"}, ["train_dataset", "'score_chosen'"]),
        ({"processing_class": None}, {}, ["No tokenizer", "processing_class"]),
        ({"train_dataset": [{"chosen": "a"}]}, {}, ["train_dataset, row 1", "'rejected'"]),
    ],
)
def test_bad_input_is_refused_before_work(
    make_trainer: MakeTrainer, trainer: dict[str, Any], config: dict[str, Any], words: list[str]
) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    with pytest.raises(InputError) as caught:
        make_trainer(trainer={"train_dataset": rows, **trainer}, **config)
    for word in words:
        assert word in str(caught.value)


def test_models_that_do_not_fit_are_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(InputError, match="args is a TrainingArguments"):
        RSATrainer(model=tiny.make_model(), args=TrainingArguments(use_cpu=True))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="300 tokens but the model has rows for 290"):
        make_trainer(tiny.make_model(vocab_size=290))
    with pytest.raises(InputError, match="304 vocabulary rows and ref_model 400"):
        make_trainer(trainer={"ref_model": tiny.make_model(vocab_size=400)})
    with pytest.raises(InputError, match="positions for 64 only"):
        make_trainer(tiny.make_model(max_position_embeddings=64))
    with pytest.raises(InputError, match="model is a int"):
        make_trainer(3)
    with pytest.raises(InputError, match=r"'nobody/nothing': no such folder"):
        make_trainer("nobody/nothing")
    with pytest.raises(InputError, match=r"shared_prompt is True.*mistral"):
        make_trainer(tiny.make_model("mistral", sliding_window=8), shared_prompt=True)


def test_missing_pad_token_is_replaced(make_trainer: MakeTrainer) -> None:
    tokenizer = tiny.make_tokenizer(pad_token=None)
    trainer = make_trainer(trainer={"processing_class": tokenizer})
    assert trainer.data_collator == RowCollator(
        tokenizer.eos_token_id, shared_prompt=True, ties=False
    )
    assert tokenizer.pad_token is None
    trainer.train()


_EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}


@pytest.mark.parametrize(
    ("kind", "weight", "said"),
    [
        ("mixtral", 0.02, 1),
        ("qwen3_moe", 0.001, 1),
        ("qwen3_moe", 0.0, 0),  # nothing to leave out
        ("llama", None, 0),
    ],
)
def test_experts_are_trained_without_their_balancing_loss_and_told_so(
    make_trainer: MakeTrainer,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    weight: float | None,
    said: int,
) -> None:
    model = tiny.make_model(kind, **_EXPERTS.get(kind, {}), router_aux_loss_coef=weight)
    loss = make_trainer(model, max_steps=1).train().training_loss
    assert loss == pytest.approx(math.log(2), abs=1e-5)
    assert caplog.text.count("it is trained without the loss that balances them") == said


@pytest.mark.parametrize("kind", _EXPERTS)
def test_a_balancing_loss_that_is_asked_for_is_refused(
    make_trainer: MakeTrainer, kind: str
) -> None:
    model: Any = tiny.make_model(kind, **_EXPERTS[kind], output_router_logits=True)
    ids = torch.tensor([[5, 6, 7]])
    assert model(input_ids=ids, labels=ids).aux_loss.item() > 0
    with pytest.raises(InputError, match=r"^model: .*output_router_logits on.* has none\. Set"):
        make_trainer(model)
    model.config.output_router_logits = False
    make_trainer(model)


def test_a_text_model_in_another_has_a_configuration_of_its_own() -> None:
    outer = Qwen3VLMoeConfig(text_config={"output_router_logits": True})
    assert not hasattr(outer, "output_router_logits")
    with pytest.raises(InputError, match="output_router_logits on"):
        preparation.check_experts(SimpleNamespace(config=outer))
