"""A sound world passes its guard unchanged; tests/guards has the broken ones."""

import numpy as np
import pytest

from riskalign.errors import InputError
from riskalign.worlds import Prompt, get_world
from riskalign.worlds.world import Guarded, Split
from tests.pipeline.conftest import Letters

SPEC = "tests.pipeline.conftest:Letters"


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_sound_world_is_as_it_was(split: Split) -> None:
    guarded, world = get_world(SPEC), Letters()
    assert isinstance(guarded, Guarded)
    assert guarded.prompts(split, 5, 3) == world.prompts(split, 5, 3)
    prompt = world.prompts("train", 1, 0)[0]
    for answer in ("", "a", "some words"):
        assert guarded.reward(prompt, answer) == world.reward(prompt, answer)
        assert guarded.cost(prompt, answer) == world.cost(prompt, answer)


def test_worlds_of_ours_and_objects_need_none() -> None:
    world = Letters()
    assert get_world(world) is world
    assert not isinstance(get_world("vault"), Guarded)


def test_a_split_that_gives_anothers_prompts_is_refused() -> None:
    class Same(Letters):
        def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
            return super().prompts("train", n, seed)

    with pytest.raises(InputError, match=r"world 'a:Same': prompts gave one of 'train' again"):
        Guarded(Same(), "a:Same").prompts("eval", 3, 0)


def test_numbers_of_other_kinds_and_few_training_prompts_are_no_fault() -> None:
    class Other(Letters):
        def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
            return super().prompts(split, min(n, 2) if split == "train" else n, seed)

        def cost(self, prompt: Prompt, answer: str) -> float:
            return answer == "bad"

        def reward(self, prompt: Prompt, answer: str) -> float:
            return np.float32(0.5)  # type: ignore[return-value]

    guarded = Guarded(Other(), "a:Other")
    prompt = guarded.prompts("eval", 5, 0)[0]
    assert guarded.cost(prompt, "bad") == 1.0
    assert guarded.reward(prompt, "bad") == 0.5
    with pytest.raises(InputError, match="gave 2 with 2 ids for 5 of 'train'"):
        guarded.prompts("train", 5, 0)
