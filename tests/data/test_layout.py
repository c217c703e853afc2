"""Layouts: packing is undone exactly, whatever the lengths."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from riskalign.data import packed, plain

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
