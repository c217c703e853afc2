"""What a verifiable world is: prompts, a reward function and a cost function.

A world needs no labels and no judge: programs score the answers. Implement the three members of
`World` in a class of your own, name it ``package.module:Class`` and every command works on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from riskalign.errors import InputError
from riskalign.plugin import load

Split = Literal["train", "dev", "eval"]
Message = dict[str, str]


@dataclass(frozen=True)
class Prompt:
    """A conversation to answer and the facts that a world's programs score the answer by.

    Attributes:
        id: unique within a world and split; intervals are clustered on it.
        messages: chat messages ``{"role": ..., "content": ...}``, the last one the user's.
        facts: whatever `World.reward` and `World.cost` need; never shown to the model.
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
    found = getattr(world, "max_cost", None)
    return None if found is None else float(found)


def has_dev(world: World) -> bool:
    """Whether a world has prompts for choosing settings, apart from those to train on."""
    return "dev" in getattr(world, "splits", ())


def demonstrations_of(world: World, n: int, seed: int) -> list[Demonstration]:
    """Return `n` demonstrations of a world.

    Raises:
        InputError: the world has none, or not so many.
    """
    make = getattr(world, "demonstrations", None)
    if make is None:
        raise InputError(
            f"world {world.name!r}: has no demonstrations, which the step 'sft' trains on. Leave "
            "sft out of order, or give the world a method demonstrations(n, seed)."
        )
    found: list[Demonstration] = make(n, seed)
    if len(found) != n:
        raise InputError(f"world {world.name!r}: gave {len(found)} demonstrations of {n} asked for")
    return found


def _vault() -> World:
    from riskalign.worlds.vault import Vault

    return Vault()


def _goodwill() -> World:
    from riskalign.worlds.goodwill import Goodwill

    return Goodwill()


WORLDS: dict[str, Callable[[], World]] = {"goodwill": _goodwill, "vault": _vault}


def get_world(spec: str | World) -> World:
    """Return the world named `spec`.

    Args:
        spec: a name in `WORLDS`, ``package.module:Class`` (made without arguments), or a world.
            A module is looked for where Python's are, then in the working directory, which is
            searched only while that module is imported and the class is made.

    Raises:
        InputError: the name is unknown, cannot be imported, or lacks a member of `World`.
    """
    if not isinstance(spec, str):
        world: object = spec
    elif spec in WORLDS:
        world = WORLDS[spec]()
    elif ":" in spec:
        world = load(spec, "world", lambda found: found())  # type: ignore[operator]
    else:
        raise InputError(
            f"world: no world is named {spec!r}; choose one of {', '.join(sorted(WORLDS))} "
            "or give package.module:Class"
        )
    if not isinstance(world, World):
        missing = [m for m in ("name", "prompts", "reward", "cost") if not hasattr(world, m)]
        raise InputError(f"world: {spec!r} lacks {', '.join(missing)}; see riskalign.World")
    return world
