"""Yes and No scored: against the model's own logits, in any batch, packed or padded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from riskalign.errors import InputError
from riskalign.evaluation.sets.r_judge import word_token_ids, yes_no_log_odds
from tests import tiny

QUESTIONS = [[5, 6, 7], [9] * 40, [11, 3], [20, 21, 22, 23, 24, 25, 26], [30]]


def by_hand(model: Any, tokenizer: Any, question: list[int], words: tuple[str, str]) -> float:
    """One forward pass for each spelling, no batch, no padding."""
    totals = []
    for word in words:
        spellings = {tuple(tokenizer(t)["input_ids"]) for t in (word, f" {word}")}
        logps = []
        for ids in spellings:
            row = torch.tensor([[*question, *ids]])
            with torch.no_grad():
                each = model(input_ids=row).logits[0].log_softmax(-1)
            at = len(question) - 1
            logps.append(sum(each[at + i, token] for i, token in enumerate(ids)))
        totals.append(torch.stack([torch.as_tensor(p) for p in logps]).logsumexp(0))
    return float(totals[0] - totals[1])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom"])  # bloom cannot share a prompt
def test_it_is_the_models_own_probability(kind: str) -> None:
    tokenizer = tiny.make_tokenizer()
    model = tiny.make_model(kind)
    found = yes_no_log_odds(model, tokenizer, QUESTIONS)
    expected = [by_hand(model, tokenizer, q, ("Yes", "No")) for q in QUESTIONS]
    assert found.tolist() == pytest.approx(expected, abs=2e-5)
    assert len(set(expected)) == len(expected)


@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_batches_give_what_one_by_one_gives(kind: str) -> None:
    tokenizer, model = tiny.make_tokenizer(), tiny.make_model(kind)
    alone = torch.cat([yes_no_log_odds(model, tokenizer, [q]) for q in QUESTIONS])
    seen: list[tuple[int, int]] = []
    together = yes_no_log_odds(
        model, tokenizer, QUESTIONS, progress=lambda n, total: seen.append((n, total))
    )
    few = yes_no_log_odds(model, tokenizer, QUESTIONS, tokens_at_once=60)
    assert together.tolist() == pytest.approx(alone.tolist(), abs=2e-5)
    assert few.tolist() == pytest.approx(alone.tolist(), abs=2e-5)
    assert seen == [(5, 5)]


def test_words_change_sides() -> None:
    tokenizer, model = tiny.make_tokenizer(), tiny.make_model()
    one = yes_no_log_odds(model, tokenizer, QUESTIONS, words=("Yes", "No"))
    other = yes_no_log_odds(model, tokenizer, QUESTIONS, words=("No", "Yes"))
    assert one.tolist() == pytest.approx((-other).tolist(), abs=1e-6)


def test_a_training_model_stays_one() -> None:
    tokenizer, model = tiny.make_tokenizer(), tiny.make_model()
    model.train()
    yes_no_log_odds(model, tokenizer, QUESTIONS[:1])
    assert model.training


def test_spellings_differ_and_are_checked() -> None:
    tokenizer, model = tiny.make_tokenizer(), tiny.make_model()
    spellings = word_token_ids(tokenizer, "Yes")
    assert len(spellings) == 2
    with pytest.raises(InputError, match="begin another's"):
        yes_no_log_odds(model, tokenizer, QUESTIONS, words=("Ye", "Yes"))
    with pytest.raises(InputError, match="begin another's"):
        yes_no_log_odds(model, tokenizer, QUESTIONS, words=("Yes", "Yes"))
    with pytest.raises(InputError, match="no token"):
        word_token_ids(_Nothing(), "Yes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no token"):
        yes_no_log_odds(model, tokenizer, [[]])


class _Nothing:
    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": []}
