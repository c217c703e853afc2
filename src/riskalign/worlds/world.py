"""What a verifiable world is: prompts, a reward function and a cost function.

A world needs no labels and no judge: programs score the answers. Implement the three members of
`World` in a class of your own, name it ``package.module:Class`` and every command works on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, Protocol, runtime_checkable

from riskalign.errors import InputError
from riskalign.plugin import load

Split = Literal["train", "dev", "eval"]
Message = dict[str, str]


@dataclass(frozen=True)
class Prompt:
    """A conversation to answer and the facts that a world's programs score the answer by.

    `id` is unique within a world and split; intervals are clustered on it. The last of the
    `messages` is the user's. `facts` are never shown to the model.
    """

    id: str
    messages: tuple[Message, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Demonstration:
    """A prompt and answers to it that show a model how a world's answers look."""

    prompt: Prompt
    answers: tuple[str, ...]


@runtime_checkable
class World(Protocol):
    """A source of prompts whose answers a program can score.

    A world may also say its largest possible cost, `max_cost`: the report then adds bounds on CVaR
    that hold for every distribution of costs. It may have `splits`, the parts that `prompts` knows,
    with a third one ``dev`` for choosing settings, and `demonstrations(n, seed)`, training prompts
    with answers for a start step of supervised tuning. `score_ahead(answers)`, where there is one,
    is told answers with their prompts before they are scored one by one.
    """

    name: str

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """Return `n` prompts, the same for the same seed; the splits must not overlap."""
        ...

    def reward(self, prompt: Prompt, answer: str) -> float:
        """Return how helpful `answer` is, in [0, 1], higher is better."""
        ...

    def cost(self, prompt: Prompt, answer: str) -> float:
        """Return the harm in `answer`, at least 0; an answer is unsafe when it is above 0."""
        ...


def score_ahead(world: World, answers: Sequence[tuple[Prompt, str]]) -> None:
    """Let a world that can score many answers at once, before they are asked for one by one."""
    ahead = getattr(world, "score_ahead", None)
    if ahead is not None:
        ahead(answers)


def max_cost_of(world: World) -> float | None:
    """The largest cost that a world says it can charge; None where it does not say."""
    largest = getattr(world, "max_cost", None)
    return None if largest is None else float(largest)


def has_dev(world: World) -> bool:
    """Whether a world has prompts for choosing settings, apart from those to train on."""
    return "dev" in getattr(world, "splits", ())


def demonstrations_of(world: World, n: int, seed: int) -> list[Demonstration]:
    """`n` demonstrations of a world; raises `InputError` where it has none, or not so many."""
    make = getattr(world, "demonstrations", None)
    if make is None:
        raise InputError(
            f"world {world.name!r}: has no demonstrations, which the step 'sft' trains on. Leave "
            "sft out of order, or give the world a method demonstrations(n, seed)."
        )
    made: list[Demonstration] = make(n, seed)
    if len(made) != n:
        raise InputError(f"world {world.name!r}: gave {len(made)} demonstrations of {n} asked for")
    return made


def draw_prompts(
    world: World,
    split: Split,
    n: int,
    seed: int,
    draw: Callable[[int, Random], tuple[str, str, Mapping[str, Any]]],
) -> list[Prompt]:
    """`n` prompts of a world that has `splits`; the seed decides all but their places.

    `draw(place, random)` gives a prompt's system message, the user's, and the facts.

    Raises `InputError` for a split that is not the world's, or a negative `n`.
    """
    splits: tuple[Split, ...] = getattr(world, "splits", ())
    if split not in splits:
        raise InputError(f"split: must be one of {', '.join(splits)}, not {split!r}")
    if n < 0:
        raise InputError(f"prompts: their number must not be negative, got {n}")
    random = Random(f"{world.name}/{split}/{seed}")
    prompts = []
    for i in range(n):
        system, user, facts = draw(i, random)
        messages = {"role": "system", "content": system}, {"role": "user", "content": user}
        prompts.append(Prompt(f"{split}-{seed}-{i}", messages, facts))
    return prompts


#: Classes, as `package.module:Class`, that are imported when their world is asked for.
WORLDS: Mapping[str, str] = {
    "goodwill": "riskalign.worlds.goodwill:Goodwill",
    "vault": "riskalign.worlds.vault:Vault",
}


def get_world(spec: str | World) -> World:
    """The world named `spec`: a key of `WORLDS`, `package.module:Class`, or a world itself.

    The class is made without arguments; its module may lie in the working directory, too. Raises
    `InputError` for a name that is unknown, cannot be imported, or lacks a member of `World`.
    """
    world: object = WORLDS.get(spec, spec) if isinstance(spec, str) else spec
    if isinstance(world, str):
        if ":" not in world:
            raise InputError(
                f"world: no world is named {spec!r}; choose one of {', '.join(sorted(WORLDS))} "
                "or give package.module:Class"
            )
        world = load(world, "world", lambda made: made())  # type: ignore[operator]
    if not isinstance(world, World):
        missing = [m for m in ("name", "prompts", "reward", "cost") if not hasattr(world, m)]
        raise InputError(f"world: {spec!r} lacks {', '.join(missing)}; see riskalign.World")
    return world
