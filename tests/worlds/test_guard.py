"""A sound world passes its guard unchanged; tests/guards has the broken ones."""

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
