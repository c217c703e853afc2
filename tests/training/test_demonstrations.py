"""Supervised tuning on demonstrations: the loss by hand, packed as plain, answers alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import TrainingArguments

from riskalign.data import RowCollator
from riskalign.errors import InputError, TrainingDiverged
from riskalign.training import engines
from riskalign.training.demonstrations import (
    DemonstrationTrainer,
    demonstration_rows,
    train_on_demonstrations,
)
from tests import tiny

PROMPTS = [[{"role": "user", "content": "The door code?"}], [{"role": "user", "content": "Order?"}]]
ANSWERS = [["I cannot share that.", "Tuesday."], ["It is on its way."]]


def arguments(folder: Path, **settings: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        remove_unused_columns=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1,
        **{"max_steps": 1, "learning_rate": 1e-2, "lr_scheduler_type": "constant", **settings},
    )


def test_rows_are_prompts_and_answers_with_their_end() -> None:
    tokenizer = tiny.make_tokenizer()
    rows = demonstration_rows(PROMPTS, ANSWERS, tokenizer, 64)
    assert [len(row["completions_ids"]) for row in rows] == [2, 1]
    said = str(tokenizer.decode(rows[0]["completions_ids"][1]))
    assert said.startswith("Tuesday.<|im_end|>")
    assert str(tokenizer.decode(rows[1]["prompt_ids"])).endswith("<|im_start|>assistant\n")


def test_refusals() -> None:
    tokenizer = tiny.make_tokenizer()
    with pytest.raises(InputError, match="demonstration 1: has 2 answers"):
        demonstration_rows(PROMPTS, ANSWERS, tokenizer, 8)
    with pytest.raises(InputError, match="demonstration 1: has 0 answers"):
        demonstration_rows(PROMPTS, [[], ["a"]], tokenizer, 64)
    with pytest.raises(InputError, match="there are none"):
        demonstration_rows([], [], tokenizer, 64)


@pytest.mark.parametrize("shared", [True, False])
def test_the_loss_is_the_mean_over_answer_tokens(tmp_path: Path, shared: bool) -> None:
    """Against one plain forward pass for each answer."""
    tokenizer, model = tiny.make_tokenizer(), tiny.make_model()
    rows = demonstration_rows(PROMPTS, ANSWERS, tokenizer, 64)
    trainer = DemonstrationTrainer(
        model=model, args=arguments(tmp_path), train_dataset=rows, processing_class=tokenizer
    )
    losses = []
    for row in rows:
        for ids in row["completions_ids"]:
            sequence = torch.tensor([[*row["prompt_ids"], *ids]])
            logits = model(input_ids=sequence).logits[0, len(row["prompt_ids"]) - 1 : -1]
            losses.append(cross_entropy(logits, torch.tensor(ids), reduction="none"))
    expected = torch.cat(losses).mean()
    batch = RowCollator(0, shared)(list(rows))
    assert len(batch["target_ids"]) == len(torch.cat(losses))
    assert torch.allclose(trainer.compute_loss(model, batch), expected, atol=1e-5)
    # A share of a larger batch counts by its tokens.
    whole = trainer.compute_loss(model, batch, num_items_in_batch=2 * len(batch["target_ids"]))
    assert torch.allclose(whole, expected / 2, atol=1e-5)


def test_training_learns_the_answers_and_says_so(tmp_path: Path) -> None:
    rows = demonstration_rows(PROMPTS, ANSWERS, tiny.make_tokenizer(), 64)
    trainer = train_on_demonstrations(
        tiny.make_model(), tiny.make_tokenizer(), rows, arguments(tmp_path, max_steps=30)
    )
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 30
    assert losses[-1] < losses[0] / 2


def test_accumulated_batches_count_as_one(tmp_path: Path) -> None:
    rows = demonstration_rows(PROMPTS, ANSWERS, tiny.make_tokenizer(), 64)

    def trained(**settings: Any) -> torch.Tensor:
        args = arguments(tmp_path, optim="sgd", **settings)
        trainer = train_on_demonstrations(tiny.make_model(), tiny.make_tokenizer(), rows, args)
        model: Any = trainer.model
        return torch.cat([weights.flatten() for weights in model.parameters()]).detach()

    at_once = trained()
    apart = arguments(tmp_path, optim="sgd", gradient_accumulation_steps=2)
    apart.per_device_train_batch_size = 1
    trainer = train_on_demonstrations(tiny.make_model(), tiny.make_tokenizer(), rows, apart)
    model: Any = trainer.model
    weights = torch.cat([weights.flatten() for weights in model.parameters()]).detach()
    assert torch.allclose(at_once, weights, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_it(tmp_path: Path) -> None:
    rows = demonstration_rows(PROMPTS, ANSWERS, tiny.make_tokenizer(), 64)
    model = tiny.make_model()
    torch.nn.init.constant_(model.get_output_embeddings().weight, float("nan"))
    with pytest.raises(TrainingDiverged, match="step 1"):
        train_on_demonstrations(model, tiny.make_tokenizer(), rows, arguments(tmp_path))


def test_one_process_that_diverges_stops_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = demonstration_rows(PROMPTS, ANSWERS, tiny.make_tokenizer(), 64)
    asked: list[bool] = []

    def any_process(_: Any, here: torch.Tensor) -> bool:
        asked.append(bool(here))
        return len(asked) == 2  # another one's loss is not finite at the second step

    monkeypatch.setattr(engines, "any_process", any_process)
    with pytest.raises(TrainingDiverged, match="step 2"):
        train_on_demonstrations(
            tiny.make_model(), tiny.make_tokenizer(), rows, arguments(tmp_path, max_steps=3)
        )
    assert asked == [False, False]
