"""Reward and cost models on a preference that can be told apart."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from riskalign.errors import InputError, TrainingDiverged
from riskalign.models import fingerprint
from riskalign.scorers import (
    Kind,
    ScorerSettings,
    load_scalar_model,
    save_scalar_model,
    train_scorer,
)
from riskalign.scorers.train import prepare_pairs
from tests import tiny
from tests.safe_rlhf import toy

SETTINGS = ScorerSettings(
    learning_rate=1e-2, num_train_epochs=8, per_device_train_batch_size=8, max_length=64
)


def _rows(first: int = 0, n: int = 32) -> list[dict[str, Any]]:
    """The chosen answer never says risky; the rejected one costs, in every second row, nothing."""
    others = ("good", "dull", "odd")
    rows = []
    for i in range(first, first + n):
        words = [others[i // 3**k % 3] for k in range(4)]
        rows.append(
            {
                "prompt": [{"role": "user", "content": " ".join(words[:2])}],
                "chosen": [{"role": "assistant", "content": " ".join(words[1:])}],
                "rejected": [{"role": "assistant", "content": " ".join([*words[2:], "risky"])}],
                "score_chosen": 0.0,
                "score_rejected": -1.0,
            }
        )
    return rows


@pytest.mark.parametrize("kind", ["reward", "cost"])
def test_a_separable_preference_is_learnt_whole(kind: Kind, tmp_path: Path) -> None:
    model, tokenizer = toy.make_model(), toy.make_tokenizer()
    before = fingerprint(model)
    told: list[tuple[int, int]] = []
    result = train_scorer(
        kind, model, tokenizer, _rows(), SETTINGS, eval_pairs=_rows(40, 16),
        update=lambda n, total, _: told.append((n, total)),
    )  # fmt: skip
    assert told == [(n, 32) for n in range(1, 33)]
    assert fingerprint(model) == before
    assert result.log[-1]["accuracy"] == 1.0
    assert result.log[-1]["loss"] < 0.2 * result.log[0]["loss"]
    assert result.evaluation["accuracy"] == 1.0
    assert result.evaluation["brier"] < 0.05
    assert result.evaluation["ece"] < 0.2
    assert ("sign_accuracy" in result.evaluation) == (kind == "cost")
    if kind == "cost":
        assert result.evaluation["sign_accuracy"] == 1.0
        assert result.evaluation["sign_brier"] < 0.05
    save_scalar_model(result.model, tmp_path / "scorer", tokenizer)
    loaded = load_scalar_model(tmp_path / "scorer")
    assert fingerprint(loaded) == fingerprint(result.model)


def test_the_seed_decides_everything() -> None:
    model, tokenizer = toy.make_model(), toy.make_tokenizer()
    few = ScorerSettings(learning_rate=1e-2, num_train_epochs=1)
    first, again, other = (
        train_scorer("reward", model, tokenizer, _rows(), few, seed=seed) for seed in (0, 0, 1)
    )
    assert first.log == again.log
    assert fingerprint(first.model) == fingerprint(again.model)
    assert fingerprint(first.model) != fingerprint(other.model)


def test_an_adapter_learns_too_and_is_merged() -> None:
    lora = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1)
    result = train_scorer(
        "reward", toy.make_model(), toy.make_tokenizer(), _rows(), SETTINGS, peft_config=lora
    )
    assert result.log[-1]["accuracy"] == 1.0
    assert not any("lora" in name for name, _ in result.model.named_parameters())


def test_rows_that_are_dropped_take_their_signs_with_them() -> None:
    rows = _rows(0, 4)
    rows[1]["chosen"] = [{"role": "assistant", "content": " "}]
    rows[2] |= {"score_chosen": -2.0, "score_rejected": -3.0}
    rows[3] |= {"score_chosen": 0.5, "score_rejected": 0.0}
    pairs, counts = prepare_pairs(rows, "rows", toy.make_tokenizer(), toy.make_model(), signs=True)
    assert counts.dropped_empty == 1
    assert [p.signs for p in pairs] == [(-1, 1), (1, 1), (-1, -1)]


def test_signs_need_scores() -> None:
    rows = [{k: v for k, v in row.items() if "score" not in k} for row in _rows(0, 8)]
    model, tokenizer = toy.make_model(), toy.make_tokenizer()
    with pytest.raises(InputError, match=r"pairs, row 1.*score_chosen.*safety_signs"):
        train_scorer("cost", model, tokenizer, rows, SETTINGS)
    without = ScorerSettings(num_train_epochs=1, safety_signs=False)
    result = train_scorer("cost", model, tokenizer, rows, without, eval_pairs=rows)
    assert set(result.evaluation) == {"loss", "accuracy", "brier", "ece"}


def test_what_cannot_be_trained_is_refused() -> None:
    model, tokenizer = toy.make_model(), toy.make_tokenizer()
    with pytest.raises(InputError, match="kind"):
        train_scorer("good", model, tokenizer, _rows(), SETTINGS)  # type: ignore[arg-type]
    short = tiny.make_model(max_position_embeddings=4)
    with pytest.raises(InputError, match="positions"):
        train_scorer("reward", short, tokenizer, _rows(), SETTINGS)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))  # type: ignore[operator]
    with pytest.raises(TrainingDiverged, match="step 1"):
        train_scorer("reward", model, tokenizer, _rows(), SETTINGS)
