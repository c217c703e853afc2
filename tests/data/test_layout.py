"""Layouts and batches: which hidden state predicts which token, and who sees whom."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from riskalign.data import RowCollator, UnpairedCollator, packed, plain

ids = st.lists(st.integers(1, 50), min_size=1, max_size=6)
batches = st.lists(st.tuples(ids, st.lists(ids, min_size=1, max_size=4)), min_size=1, max_size=4)


@given(batches)
def test_unpacked_tokens_are_the_plain_rows(rows: list[tuple[list[int], list[list[int]]]]) -> None:
    one, other = packed(rows), plain(rows, pad_token_id=0)
    unpack = one.inputs["unpack"]
    for name in ("input_ids", "position_ids"):
        flat = one.inputs[name][0]
        there = flat[unpack.clamp_min(0)].masked_fill(unpack < 0, 0)
        assert torch.equal(there, other.inputs[name])
    assert torch.equal((unpack >= 0).long(), other.inputs["attention_mask"])


@given(batches)
def test_every_place_is_a_tokens_own_or_again(
    rows: list[tuple[list[int], list[list[int]]]],
) -> None:
    inputs = packed(rows).inputs
    places = inputs["unpack"].flatten()
    token, place = inputs["again"]
    assert torch.equal(places[inputs["repack"]], torch.arange(inputs["input_ids"].shape[1]))
    assert torch.equal(places[place], token)
    every = torch.cat((inputs["repack"], place))
    assert sorted(every.tolist()) == (places >= 0).nonzero().flatten().tolist()


@given(batches)
def test_predictions_come_from_the_token_before(
    rows: list[tuple[list[int], list[list[int]]]],
) -> None:
    for layout in (packed(rows), plain(rows, pad_token_id=0)):
        tokens = layout.inputs["input_ids"].flatten().tolist()
        for (prompt, responses), own in zip(rows, layout.hidden_index, strict=True):
            for response, index in zip(responses, own, strict=True):
                read = [tokens[i] for i in index]
                assert read == [prompt[-1], *response[:-1]]


PAIRS = [
    {"prompt_ids": [1, 2], "chosen_ids": [3, 4, 5], "rejected_ids": [6], "gap": 0.5},
    {"prompt_ids": [7], "chosen_ids": [8], "rejected_ids": [9, 10], "gap": -1.0},
]


def test_plain_rows_by_hand() -> None:
    batch = RowCollator(pad_token_id=0)(PAIRS)
    assert batch["gap"].tolist() == [0.5, -1.0]
    # Prompt by prompt, its chosen response's row before its rejected one's.
    assert batch["input_ids"].tolist() == [
        [1, 2, 3, 4, 5],
        [1, 2, 6, 0, 0],
        [7, 8, 0, 0, 0],
        [7, 9, 10, 0, 0],
    ]
    assert batch["attention_mask"].sum(-1).tolist() == [5, 3, 2, 3]
    assert batch["target_ids"].tolist() == [3, 4, 5, 6, 8, 9, 10]
    assert batch["sequence"].tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert batch["row"].tolist() == [0, 0, 1, 1]
    assert batch["pairs"].tolist() == [[0, 2], [1, 3]]
    assert batch["hidden_index"].tolist() == [1, 2, 3, 6, 10, 15, 16]


@pytest.mark.parametrize("shared", [False, True])
def test_what_lies_in_gaps_is_read_and_not_predicted(shared: bool) -> None:
    rows = [{**PAIRS[0], "chosen_gaps": [1, 2]}, {**PAIRS[1], "rejected_gaps": [1, 2]}]
    whole, batch = (RowCollator(pad_token_id=0, shared_prompt=shared)(of) for of in (PAIRS, rows))
    assert batch["input_ids"].tolist() == whole["input_ids"].tolist()
    assert batch["target_ids"].tolist() == [3, 5, 6, 8, 9]
    assert batch["sequence"].tolist() == [0, 0, 1, 2, 3]
    at = [0, 2, 3, 4, 5]
    assert batch["hidden_index"].tolist() == whole["hidden_index"][at].tolist()
    group = {"prompt_ids": [1, 2], "completions_ids": [[3, 4, 5], [6]], "scores": [1.0, 0.0]}
    made = RowCollator(0, shared)([{**group, "completions_gaps": [[1, 2], []]}])
    assert made["target_ids"].tolist() == [3, 5, 6]
    single = {"prompt_ids": [1, 2], "completion_ids": [3, 4, 5], "label": True}
    other = {"mismatched_ids": [6, 7], "mismatched_gaps": [0, 1]}
    made = UnpairedCollator(0, shared)([{**single, "completion_gaps": [0, 2], **other}])
    assert made["target_ids"].tolist() == [5, 7]


def test_packed_by_hand() -> None:
    batch = RowCollator(pad_token_id=0, shared_prompt=True)(PAIRS)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 2, 0, 1, 1, 2]]
    assert batch["unpack"].tolist() == [
        [0, 1, 2, 3, 4],
        [0, 1, 5, -1, -1],
        [6, 7, -1, -1, -1],
        [6, 8, 9, -1, -1],
    ]
    assert batch["repack"].tolist() == [0, 1, 2, 3, 4, 7, 10, 11, 16, 17]
    assert batch["again"].tolist() == [[0, 1, 6], [5, 6, 15]]
    # The prompt's last position predicts the first token of both responses.
    assert batch["hidden_index"].tolist() == [1, 2, 3, 1, 6, 6, 8]
    assert batch["target_ids"].tolist() == [3, 4, 5, 6, 8, 9, 10]
    assert batch["sequence"].tolist() == [0, 0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize("shared", [False, True])
def test_each_target_follows_its_hidden_state(shared: bool) -> None:
    batch = RowCollator(pad_token_id=0, shared_prompt=shared)(PAIRS)
    positions = batch["position_ids"].flatten()
    tokens = batch["input_ids"].flatten()
    for index, target in zip(batch["hidden_index"], batch["target_ids"], strict=True):
        # Each token of PAIRS occurs once, so that it tells its own place.
        place = (tokens == target).nonzero().flatten()[0]
        assert positions[index] == positions[place] - 1
