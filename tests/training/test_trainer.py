"""The trainer: its loss against a naive oracle, and invariances of whole runs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback

from riskalign.data import load_pairs, tokenize_rows
from riskalign.errors import InputError, TrainingDiverged
from riskalign.losses import SequenceStats, pair_loss
from riskalign.risk import get_risk
from riskalign.tokens import Head, token_stats_naive
from riskalign.training import RSAConfig, RSATrainer, bf16_is_fast
from tests import tiny

MakeTrainer = Callable[..., RSATrainer]
LORA: dict[str, Any] = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def losses(trainer: RSATrainer) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def weights(model: nn.Module | None) -> Tensor:
    assert model is not None
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def oracle(policy: Any, ref: Any, config: RSAConfig, n_pairs: int) -> tuple[Tensor, Any]:
    """Loss and metrics from whole logits, one unpadded response at a time."""
    pairs, _ = tokenize_rows(
        load_pairs(tiny.make_pairs(n_pairs)), tiny.make_tokenizer(), max_length=config.max_length
    )

    def stats_of(side: str) -> SequenceStats:
        columns = []
        for pair in pairs:
            ids = torch.tensor([pair["prompt_ids"] + pair[side]])
            start = len(pair["prompt_ids"])
            identity = torch.eye(304)
            with torch.no_grad():
                ref_logits = ref(ids).logits[0, start - 1 : -1]
            stats = token_stats_naive(
                policy(ids).logits[0, start - 1 : -1],
                Head(identity),
                ref_logits,
                Head(identity),
                ids[0, start:],
                get_risk(config.risk),
            )
            columns.append(
                [*(values.sum() for values in stats), torch.tensor(float(len(pair[side])))]
            )
        return SequenceStats(*(torch.stack(list(c)) for c in zip(*columns, strict=True)))

    gap = None if config.target == "hard" else torch.tensor(pairs["gap"]).float() * config.gap_scale
    output = pair_loss(
        config.loss_type,
        stats_of("chosen_ids"),
        stats_of("rejected_ids"),
        beta=config.beta,
        alpha=config.alpha,
        target=config.target,
        gap=gap,
        label_smoothing=config.label_smoothing,
    )
    return output.loss.mean(), output.metrics


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "rsa1", "target": "gap", "gap_scale": 3.0},
        {"loss_type": "rsa2", "risk": "erm:0.5", "shared_prompt": False},
        {"loss_type": "dpo", "label_smoothing": 0.1},
        {"loss_type": "tdpo2", "risk": "mean", "target": "soft", "chunk_size": 7},
    ],
)
def test_one_step_equals_the_naive_computation(
    make_trainer: MakeTrainer, settings: dict[str, Any]
) -> None:
    policy, ref, twin = (tiny.make_model(seed=seed) for seed in (0, 1, 0))
    trainer = make_trainer(
        policy,
        n_pairs=3,
        trainer={"ref_model": ref},
        learning_rate=1e-2,
        optim="sgd",
        max_grad_norm=1e9,
        **settings,
    )
    expected, metrics = oracle(twin, ref, trainer.args, 3)
    expected.backward()
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["loss"] == pytest.approx(expected.item(), rel=1e-4)
    for name, values in metrics.items():
        assert log[name] == pytest.approx(values.mean().item(), rel=1e-3, abs=1e-4), name
    with torch.no_grad():
        for parameter in twin.parameters():
            assert parameter.grad is not None
            parameter.sub_(1e-2 * parameter.grad)
    torch.testing.assert_close(weights(policy), weights(twin), rtol=0, atol=2e-5)


def test_first_step_is_neutral(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(num_train_epochs=1, per_device_train_batch_size=8)
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    for name in ("kl/chosen", "risk/chosen", "rewards/rejected", "margin"):
        assert first[name] == pytest.approx(0.0, abs=1e-5)
    expected = {
        *("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
        *("logps/chosen", "logps/rejected", "risk/chosen", "risk/rejected"),
        *("kl/chosen", "kl/rejected"),
    }
    assert expected <= set(first)


def test_how_a_batch_is_computed_changes_nothing(make_trainer: MakeTrainer) -> None:
    # Plain gradient descent: Adam turns rounding of near-zero gradients into whole steps.
    common: dict[str, Any] = {
        "num_train_epochs": 3,
        "target": "gap",
        "loss_type": "rsa1",
        "optim": "sgd",
        "learning_rate": 0.05,
    }
    whole = tiny.make_model()
    one = make_trainer(whole, per_device_train_batch_size=8, **common)
    one.train()
    assert len(losses(one)) == 3
    settings: dict[str, Any]
    for settings in (
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 3},
        {"per_device_train_batch_size": 8, "shared_prompt": False},
        {"per_device_train_batch_size": 8, "gradient_checkpointing": True},
        {"per_device_train_batch_size": 8, "chunk_size": 5},
    ):
        split = tiny.make_model()
        other = make_trainer(split, **common, **settings)
        other.train()
        assert losses(other) == pytest.approx(losses(one), rel=1e-4), settings
        torch.testing.assert_close(weights(split), weights(whole), rtol=0, atol=1e-6)
        for log, expected in zip(other.state.log_history, one.state.log_history, strict=True):
            for name in ("risk/chosen", "kl/rejected", "rewards/margins"):
                if name in expected:
                    assert log[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-4), settings


def test_accumulation_over_uneven_batches_is_the_mean_over_pairs(make_trainer: MakeTrainer) -> None:
    """7 pairs as 3 + 3 + 1: each pair counts 1/7, not each batch 1/3."""
    whole, split = tiny.make_model(), tiny.make_model()
    sgd: dict[str, Any] = {"optim": "sgd", "learning_rate": 0.05}
    one = make_trainer(whole, n_pairs=7, per_device_train_batch_size=7, num_train_epochs=2, **sgd)
    other = make_trainer(
        split,
        n_pairs=7,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=3,
        num_train_epochs=2,
        **sgd,
    )
    one.train()
    other.train()
    assert losses(other) == pytest.approx(losses(one), rel=1e-4)
    torch.testing.assert_close(weights(split), weights(whole), rtol=0, atol=1e-6)


@pytest.mark.parametrize("peft", [False, True])
def test_cached_reference_changes_nothing(make_trainer: MakeTrainer, peft: bool) -> None:
    def run(cached: bool) -> RSATrainer:
        trainer: dict[str, Any] = {"eval_dataset": tiny.make_pairs(3)}
        if peft:
            trainer["peft_config"] = LoraConfig(**LORA)
        made = make_trainer(
            trainer=trainer,
            num_train_epochs=2,
            eval_strategy="epoch",
            optim="sgd",
            learning_rate=0.05,
            cache_reference=cached,
        )
        made.train()
        return made

    plain, cached = run(False), run(True)
    torch.testing.assert_close(weights(cached.model), weights(plain.model), rtol=0, atol=1e-6)
    for log, expected in zip(cached.state.log_history, plain.state.log_history, strict=True):
        for name in ("loss", "eval_loss", "eval_kl/chosen"):
            if name in expected:
                assert log[name] == pytest.approx(expected[name], rel=1e-4)


def test_evaluation_averages_over_pairs(make_trainer: MakeTrainer) -> None:
    ref = tiny.make_model(seed=1)
    trainer = make_trainer(
        trainer={"ref_model": ref, "eval_dataset": tiny.make_pairs(5)},
        per_device_eval_batch_size=2,
    )
    found = trainer.evaluate()
    expected, metrics = oracle(tiny.make_model(), ref, trainer.args, 5)
    assert found["eval_loss"] == pytest.approx(expected.item(), rel=1e-4)
    for name, values in metrics.items():
        assert found[f"eval_{name}"] == pytest.approx(values.mean().item(), rel=1e-3, abs=1e-4)


def test_evaluation_of_several_sets(make_trainer: MakeTrainer) -> None:
    sets = {"one": tiny.make_pairs(2), "two": tiny.make_pairs(3)}
    trainer = make_trainer(trainer={"eval_dataset": sets}, eval_strategy="epoch")
    trainer.train()
    logged = set().union(*trainer.state.log_history)
    assert {"eval_one_loss", "eval_two_kl/chosen"} <= logged
    assert trainer.data_counts["eval_dataset['two']"].kept == 3


@pytest.mark.parametrize("cached", [False, True])
def test_evaluation_of_rows_given_later(
    make_trainer: MakeTrainer, tmp_path: Path, cached: bool
) -> None:
    rows, others = tiny.make_pairs(8)[5:], tiny.make_pairs(2)
    trainer = make_trainer(
        trainer={"ref_model": tiny.make_model(seed=1), "eval_dataset": {"held": rows}},
        cache_reference=cached,
    )
    expected = trainer.evaluate()["eval_held_loss"]
    counts = dict(trainer.data_counts)
    assert trainer.evaluate("held")["eval_loss"] == pytest.approx(expected)
    Dataset.from_list(rows).to_json(tmp_path / "rows.jsonl")
    for given in (
        rows,
        Dataset.from_list(rows),
        str(tmp_path / "rows.jsonl"),
        trainer.eval_dataset,
    ):
        data = given["held"] if isinstance(given, dict) else given
        assert trainer.evaluate(data)["eval_loss"] == pytest.approx(expected)
        predicted = trainer.predict(data).metrics or {}
        assert predicted["test_loss"] == pytest.approx(expected)
    found = trainer.evaluate({"a": rows, "b": others})
    assert found["eval_a_loss"] == pytest.approx(expected)
    assert found["eval_b_loss"] != pytest.approx(expected)
    assert trainer.data_counts["eval_b_dataset"].kept == 2
    assert counts.items() <= trainer.data_counts.items()
    with pytest.raises(InputError, match="eval_dataset, row 1: field 'chosen' is missing"):
        trainer.evaluate([{"text": "a"}])


def test_splits_are_train_and_test(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    splits = DatasetDict(
        train=Dataset.from_list(tiny.make_pairs(4)), test=Dataset.from_list(tiny.make_pairs(3))
    )
    folder = str(tmp_path / "pairs")
    splits.save_to_disk(folder)
    trainer = make_trainer(trainer={"train_dataset": splits, "eval_dataset": folder})
    kept = {name: counts.kept for name, counts in trainer.data_counts.items()}
    assert kept == {"train_dataset": 4, "eval_dataset": 3}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_trains_and_saves_the_adapter_only(
    make_trainer: MakeTrainer, tmp_path: Path, checkpointing: bool
) -> None:
    model = tiny.make_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    trainer = make_trainer(
        model,
        trainer={"peft_config": LoraConfig(**LORA)},
        gradient_checkpointing=checkpointing,
        num_train_epochs=2,
    )
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses(trainer)[-1] < math.log(2)
    assert isinstance(trainer.model, PeftModel)
    base = trainer.model.get_base_model()
    for name, parameter in base.named_parameters():
        if "lora_" not in name:
            kept = before[name.replace(".base_layer", "")]
            torch.testing.assert_close(parameter.detach(), kept, rtol=0, atol=0)
    folder = tmp_path / "adapter"
    trainer.save_model(str(folder))
    saved = load_file(folder / "adapter_model.safetensors")
    assert all("lora_" in name for name in saved)
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pt"))
    loaded = PeftModel.from_pretrained(tiny.make_model(), folder)
    ids = torch.tensor([[0, 5, 9]])
    torch.testing.assert_close(loaded(ids).logits, trainer.model.eval()(ids).logits)


def test_bf16_stays_near_float32(make_trainer: MakeTrainer, caplog: Any) -> None:
    exact, rough = make_trainer(num_train_epochs=2), make_trainer(num_train_epochs=2, bf16=True)
    exact.train()
    rough.train()
    assert losses(rough)[0] == pytest.approx(math.log(2), abs=1e-3)
    assert losses(rough) == pytest.approx(losses(exact), rel=0.1)
    assert weights(rough.model).dtype == torch.float32
    assert ("no bf16 arithmetic" in caplog.text) != bf16_is_fast()


@pytest.mark.parametrize("peft", [False, True])
def test_resumed_run_equals_the_uninterrupted_one(
    make_trainer: MakeTrainer, tmp_path: Path, peft: bool
) -> None:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "num_train_epochs": 2,
        "save_strategy": "steps",
        "save_steps": 3,
        "target": "gap",
    }

    def run(folder: str) -> RSATrainer:
        adapter = {"peft_config": LoraConfig(**LORA)} if peft else {}
        return make_trainer(trainer=adapter, output_dir=str(tmp_path / folder), **settings)

    whole = run("whole")
    whole.train()
    resumed = run("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert len(losses(whole)) == 8
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-6)
    torch.testing.assert_close(weights(resumed.model), weights(whole.model), rtol=0, atol=1e-7)


class Spoil(TrainerCallback):
    """Makes a weight NaN before a given step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                next(kwargs["model"].parameters())[:] = float("nan")


def test_divergence_stops_before_anything_is_saved(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    trainer = make_trainer(
        trainer={"callbacks": [Spoil(2)]},
        per_device_train_batch_size=2,
        save_strategy="steps",
        save_steps=1,
    )
    with pytest.raises(TrainingDiverged, match=r"loss became NaN.*step 3.*Lower learning_rate"):
        trainer.train()
    saved = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert saved == ["checkpoint-1", "checkpoint-2"]
    for name in saved:
        tensors = load_file(tmp_path / "out" / name / "model.safetensors")
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_infinite_gradient_stops_before_the_weights_change(make_trainer: MakeTrainer) -> None:
    model = tiny.make_model()
    before = weights(model)
    trainer = make_trainer(model)
    model.get_output_embeddings().weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(TrainingDiverged, match="gradient norm became NaN or infinite at step 1"):
        trainer.train()
    torch.testing.assert_close(weights(model), before, rtol=0, atol=0)


def test_group_by_length_uses_the_pairs_lengths(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(train_sampling_strategy="group_by_length")
    trainer.train()
    assert len(losses(trainer)) == 2


def test_the_seed_decides_a_new_adapter(make_trainer: MakeTrainer) -> None:
    def drawn(used_before: int, **settings: Any) -> Tensor:
        model = tiny.make_model()
        torch.rand(used_before)  # as by a step that was trained in the same process
        return weights(make_trainer(model, trainer={"peft_config": adapter}, **settings).model)

    adapter = LoraConfig(**LORA)
    assert torch.equal(drawn(0), drawn(5))
    assert not torch.equal(drawn(0), drawn(0, seed=1))
