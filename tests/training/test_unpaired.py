"""KTO through the trainer: against a naive oracle, and what it refuses."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from riskalign.data import load_unpaired, tokenize_rows
from riskalign.errors import InputError
from riskalign.training import RSAConfig, RSATrainer
from tests import tiny

MakeTrainer = Callable[..., RSATrainer]


def log_ratios(policy: Any, ref: Any, rows: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    """From whole logits, one unpadded response at a time."""
    found = []
    for prompt, response in rows:
        ids = torch.tensor([prompt + response])
        sums = []
        for model in (policy, ref):
            logp = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            sums.append(logp.gather(1, ids[0, len(prompt) :, None]).sum())
        found.append(sums[0] - sums[1].detach())
    return torch.stack(found)


@pytest.mark.parametrize("shared_prompt", [False, True])
def test_loss_and_gradient_equal_the_naive_ones(
    make_trainer: MakeTrainer, shared_prompt: bool
) -> None:
    trainer = make_trainer(
        tiny.make_model(seed=1),
        n_pairs=3,
        trainer={"ref_model": tiny.make_model(seed=2)},
        loss_type="kto",
        undesirable_weight=1.5,
        shared_prompt=shared_prompt,
    )
    policy, ref = tiny.make_model(seed=1), tiny.make_model(seed=2)
    rows, _ = tokenize_rows(
        load_unpaired(tiny.make_pairs(3)), tiny.make_tokenizer(), max_length=None
    )
    ids = [(row["prompt_ids"], row["completion_ids"]) for row in rows]
    ratio = log_ratios(policy, ref, ids)
    # Two before, past the other response of the same pair.
    mismatched = [(prompt, ids[i - 2][1]) for i, (prompt, _) in enumerate(ids)]
    kl = log_ratios(policy, ref, mismatched).detach().mean().clamp(min=0)
    label = torch.tensor(rows["label"])
    beta = trainer.args.beta
    expected = torch.where(
        label, 1 - (beta * (ratio - kl)).sigmoid(), 1.5 * (1 - (beta * (kl - ratio)).sigmoid())
    )
    held: Any = trainer.train_dataset
    own_model: Any = trainer.model
    batch = trainer.data_collator(list(held))
    loss, metrics = trainer.row_losses(own_model, batch)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(metrics["kl"][0], kl, atol=1e-4, rtol=1e-5)
    loss.mean().backward()
    expected.mean().backward()
    own, wanted = (
        torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        for model in (own_model, policy)
    )
    torch.testing.assert_close(own, wanted, atol=1e-5, rtol=1e-4)


def test_training_separates_the_labels(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        n_pairs=8,
        loss_type="kto",
        learning_rate=5e-3,
        per_device_train_batch_size=4,
        num_train_epochs=5,
        logging_steps=1,
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    last = logs[-1]
    assert last["loss"] < logs[0]["loss"] - 0.1
    assert last["rewards/chosen"] > last["rewards/rejected"]
    assert trainer.data_counts["train_dataset"].kept == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "gap"}, "target: is not hard"),
        ({"label_smoothing": 0.1}, "label_smoothing: is not 0"),
        ({"cache_reference": "memory"}, "cache_reference: is not null"),
        ({"per_device_train_batch_size": 1}, "per_device_train_batch_size: is not at least 2"),
        ({"desirable_weight": 0.0}, "desirable_weight: 0.0"),
    ],
)
def test_settings_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RSAConfig(loss_type="kto", **change)


def test_settings_keep_their_names() -> None:
    names = {field.name for field in dataclasses.fields(RSAConfig)}
    assert {"desirable_weight", "undesirable_weight"} <= names
