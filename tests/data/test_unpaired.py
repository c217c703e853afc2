"""Judged responses: checks, tokens and the batch that KTO takes its KL from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from riskalign.data import (
    UnpairedCollator,
    is_unpaired,
    load_unpaired,
    tokenize_rows,
    with_mismatched,
)
from riskalign.errors import InputError
from tests import tiny

ROWS: list[dict[str, Any]] = [
    {"prompt": "When?", "completion": " On Tuesday.", "label": True},
    {"prompt": "Who are you?", "completion": " No.", "label": False},
    {"prompt": "How?", "completion": " By post, and soon.", "label": True},
]


def test_pairs_are_two_judged_responses_each() -> None:
    pair = tiny.make_pairs(1)[0]
    chosen, rejected = load_unpaired([pair])
    assert chosen == {"prompt": pair["prompt"], "completion": pair["chosen"], "label": True}
    assert rejected == {"prompt": pair["prompt"], "completion": pair["rejected"], "label": False}


def test_tokens_are_those_of_pairs() -> None:
    tokenizer = tiny.make_tokenizer()
    pairs, _ = tokenize_rows(tiny.make_pairs(4), tokenizer, max_length=90)
    rows, counts = tokenize_rows(load_unpaired(tiny.make_pairs(4)), tokenizer, max_length=90)
    assert (counts.rows, counts.kept) == (8, 8)
    assert rows["completion_ids"][0::2] == pairs["chosen_ids"]
    assert rows["completion_ids"][1::2] == pairs["rejected_ids"]
    assert rows["label"] == [True, False] * 4


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    lines = [json.dumps(row) for row in ROWS]
    path.write_text("\n".join(lines) if name.endswith("l") else f"[{','.join(lines)}]")
    assert load_unpaired(str(path)).to_list() == ROWS


def test_cutting_is_counted() -> None:
    rows, counts = tokenize_rows(ROWS, tiny.make_tokenizer(), max_length=12)
    assert max(rows["length"]) <= 12
    assert counts.truncated_responses + counts.truncated_prompts > 0


def test_empty_responses_are_dropped() -> None:
    tokenizer = tiny.make_tokenizer()
    empty = {"prompt": "When?", "completion": " ", "label": True}
    assert tokenize_rows([*ROWS, empty], tokenizer, max_length=None)[1].dropped_empty == 1
    with pytest.raises(InputError, match="No response is left to train on"):
        tokenize_rows([empty], tokenizer, max_length=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 1}, "data, row 1: field 'label' is 1"),
        ({"prompt": None}, "field 'prompt' is missing"),
        ({"completion": [{"role": "assistant", "content": "No."}]}, "differ in kind"),
    ],
)
def test_bad_rows_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(load_unpaired([ROWS[0] | change]))


def test_one_kind_of_rows() -> None:
    talk = [{"role": "user", "content": "When?"}]
    answer = [{"role": "assistant", "content": "No."}]
    odd = {"prompt": talk, "completion": answer, "label": False}
    with pytest.raises(InputError, match="row 4: holds messages where data, row 1 holds text"):
        list(load_unpaired([*ROWS, odd]))
    assert is_unpaired(ROWS)
    assert not is_unpaired(tiny.make_pairs(1))


@pytest.mark.parametrize("shared_prompt", [False, True])
def test_each_prompt_also_gets_the_response_before_it(shared_prompt: bool) -> None:
    rows, _ = tokenize_rows(ROWS, tiny.make_tokenizer(), max_length=None)
    batch = UnpairedCollator(2, shared_prompt)(list(with_mismatched(rows)))
    ids = rows["completion_ids"]
    assert batch["target_ids"].tolist() == [
        token for i in range(3) for token in (*ids[i], *ids[i - 1])
    ]
    assert batch["gap"].tolist() == [1.0, -1.0, 1.0]
    assert batch["sequence"].max() == 5


def test_mismatched_responses_keep_within_the_length() -> None:
    rows, _ = tokenize_rows(ROWS, tiny.make_tokenizer(), max_length=None)
    batch = UnpairedCollator(2, max_length=max(rows["length"]))(list(with_mismatched(rows)))
    assert batch["input_ids"].shape[1] == max(rows["length"])
    assert torch.bincount(batch["sequence"])[3] < len(rows["completion_ids"][0]) + 1


def test_a_mismatched_response_is_to_another_prompt_wherever_one_stands_near(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows, _ = tokenize_rows(
        load_unpaired(tiny.make_pairs(3)), tiny.make_tokenizer(), max_length=None
    )
    made = with_mismatched(with_mismatched(rows))
    ids = rows["completion_ids"]
    assert list(made["mismatched_ids"]) == [*ids[-2:], *ids[:-2]]  # past the pair's other one
    assert not caplog.records
    alone, _ = tokenize_rows(ROWS[:1] * 2, tiny.make_tokenizer(), max_length=None)
    assert len(with_mismatched(alone, "train_dataset")) == 2
    assert "train_dataset: 2 of 2 rows take a response to their own prompt" in caplog.text
