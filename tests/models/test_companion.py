"""A companion's logits are those of reading each row alone from its start."""

import random

import pytest
import torch

from riskalign.errors import InputError
from riskalign.models.companion import Companion
from tests import tiny


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_rows_that_come_go_and_change_places(kind: str) -> None:
    model = tiny.make_model(kind).double().eval()
    companion, draw = Companion(model), random.Random(1)
    rows: dict[str, list[int]] = {}
    calls: list[tuple[int, int]] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    for step in range(25):
        for key in list(rows):
            if draw.random() < 0.15:
                del rows[key]
            elif draw.random() < 0.9:  # else as before, as in a prompt that is read by pieces
                rows[key] = [*rows[key], draw.randrange(300)]
        for n in range(draw.choice((0, 0, 1, 3))):
            # The same prompt for several rows, as for several answers.
            rows[f"{step}-{n}"] = [3 + step] * draw.choice((2, 2, 9))
        order = draw.sample(sorted(rows), len(rows))
        if not order:
            continue
        found = companion.next_logits([(key, rows[key]) for key in order])
        with torch.no_grad():
            alone = [model(input_ids=torch.tensor([rows[key]])).logits[0, -1] for key in order]
        torch.testing.assert_close(found, torch.stack(alone), rtol=1e-9, atol=1e-9)
    rows = {"a": [5, 6, 7], "b": [5, 6, 7], "c": [8]}
    companion.next_logits(list(rows.items()))
    calls.clear()
    companion.next_logits([(key, [*ids, 9]) for key, ids in rows.items()])
    assert calls == [(3, 1)]


def test_a_model_with_other_states_is_refused() -> None:
    with pytest.raises(InputError, match="MistralForCausalLM keeps other states"):
        Companion(tiny.make_model("mistral", sliding_window=4))
