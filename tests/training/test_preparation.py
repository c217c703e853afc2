"""What is settled before the first step, and what is refused."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForCausalLM, TrainingArguments

from riskalign.data import RowCollator
from riskalign.errors import InputError
from riskalign.training import RSATrainer
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
    model = tiny.make_model()
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be loaded"):
        make_trainer(str(tmp_path))
    weights.unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        make_trainer(str(tmp_path))


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
    with pytest.raises(InputError, match=r"'nobody/nothing' cannot be loaded"):
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
