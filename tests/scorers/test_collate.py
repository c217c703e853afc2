"""Collated answers against reading each of them alone."""

import pytest
import torch

from riskalign.data import response_hidden
from riskalign.scorers.scalar import (
    Sample,
    collate,
    padded,
    token_mask,
)
from riskalign.tokens import backbone_of
from tests import tiny

SAMPLES = [
    Sample([5, 6, 7], [9, 1]),
    Sample([8, 9], [1]),  # an empty answer: its end token alone
    Sample([5, 6, 7], [1]),
    Sample([5, 6, 7], [10, 11, 12]),
]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_states_are_those_of_each_answer_alone(model_type: str, shared: bool) -> None:
    model = tiny.make_model(model_type)
    body = backbone_of(model)
    batch = collate(SAMPLES, 2, shared, torch.device("cpu"))
    ends = {**batch, "hidden_index": batch["final_index"]}
    before, final = [], []
    for prompt, response in SAMPLES:
        ids = torch.tensor([[*prompt, *response]])
        states = body(input_ids=ids).last_hidden_state[0]
        before.append(states[len(prompt) - 1 : -1])
        final.append(states[-1])
    torch.testing.assert_close(
        response_hidden(body, batch), torch.cat(before), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        response_hidden(body, ends), torch.stack(final), rtol=1e-4, atol=1e-5
    )
    assert batch["target_ids"].tolist() == [9, 1, 1, 1, 10, 11, 12]


def test_values_go_to_their_places() -> None:
    mask = token_mask(SAMPLES)
    assert mask.sum(-1).tolist() == [2, 1, 1, 3]
    flat = torch.arange(1.0, 8.0)
    found = padded(flat, mask)
    assert found.tolist() == [[1, 2, 0], [3, 0, 0], [4, 0, 0], [5, 6, 7]]
    assert torch.equal(found[mask], flat)
