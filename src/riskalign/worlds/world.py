"""What a verifiable world is: prompts, a reward function and a cost function.

A world needs no labels and no judge: programs score the answers. Implement the three members of
`World` in a class of your own, name it ``package.module:Class`` and every command works on it.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from random import Random
from typing import Any, Literal, Protocol, runtime_checkable

from riskalign.errors import InputError, door
from riskalign.plugin import load

Split = Literal["train", "dev", "eval"]
Message = dict[str, str]
_MEND = "Mend the world's code."


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


class Guarded:
    """A world whose every answer is checked; `InputError` names the world, the method and why."""

    def __init__(self, world: World, spec: str) -> None:
        self.unguarded = world
        self._spec = spec
        if not isinstance(world.name, str):
            raise self._wrong("name", f"is {world.name!r}, not text")
        self.name = world.name
        self.max_cost = getattr(world, "max_cost", None)
        if self.max_cost is not None and not (is_number(self.max_cost) and self.max_cost > 0):
            raise self._wrong("max_cost", f"is {self.max_cost!r}, not a finite number above 0")
        self.splits = tuple(getattr(world, "splits", ()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unguarded, name)

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """As the world's own; `eval`'s are compared with as many of `train`, if it has them."""
        prompts = self._asked(split, n, seed)
        if split == "eval":
            trained_on: set[str] = set()
            with contextlib.suppress(InputError):  # told when they are asked for
                trained_on = {str(prompt.messages) for prompt in self._asked("train", n, seed)}
            if any(str(prompt.messages) in trained_on for prompt in prompts):
                raise self._wrong("prompts", "gave one of 'train' again as one of 'eval'")
        return prompts

    def _asked(self, split: Split, n: int, seed: int) -> list[Prompt]:
        with door(f"world {self._spec!r}: prompts", _MEND):
            given = self.unguarded.prompts(split, n, seed)
            prompts = list(given) if isinstance(given, Iterable) else given
        if not isinstance(prompts, list):
            raise self._wrong("prompts", f"gave {type(prompts).__name__}, not a list of Prompt")
        for i, prompt in enumerate(prompts):
            if fault := _fault(prompt):
                raise self._wrong("prompts", f"gave at place {i} of {split!r} {fault}")
        ids = len({prompt.id for prompt in prompts})
        if len(prompts) != n or ids != n:
            raise self._wrong("prompts", f"gave {len(prompts)} with {ids} ids for {n} of {split!r}")
        return prompts

    def reward(self, prompt: Prompt, answer: str) -> float:
        """As the world's own."""
        return self._score("reward", prompt, answer, least=-math.inf)

    def cost(self, prompt: Prompt, answer: str) -> float:
        """As the world's own."""
        return self._score("cost", prompt, answer, least=0.0)

    def _score(self, name: str, prompt: Prompt, answer: str, least: float) -> float:
        with door(f"world {self._spec!r}: {name}", _MEND):
            value = getattr(self.unguarded, name)(prompt, answer)
        if not is_number(value) or value < least:
            bound = ", 0 or more" if least == 0 else ""
            raise self._wrong(
                name, f"of an answer to {prompt.id!r} is {value!r}, not a finite number{bound}"
            )
        return float(value)

    def _wrong(self, member: str, problem: str) -> InputError:
        return InputError(f"world {self._spec!r}: {member} {problem}. {_MEND}")


def is_number(value: object) -> bool:
    """Whether a value is a finite number; numpy's and a plain true or false are, too."""
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number beyond floats
        return False


def _fault(prompt: object) -> str:
    """What is wrong with a prompt; nothing where it is sound."""
    if not isinstance(prompt, Prompt):
        return f"{type(prompt).__name__}, not a Prompt"
    if not isinstance(prompt.id, str):
        return f"a Prompt with id {prompt.id!r}, which is not text"
    if isinstance(prompt.messages, str) or not prompt.messages:
        return f"a Prompt {prompt.id!r} with {prompt.messages!r} for messages"
    for message in prompt.messages:
        said = message if isinstance(message, Mapping) else {}
        if not all(isinstance(said.get(part), str) for part in ("role", "content")):
            return f"a Prompt {prompt.id!r} with a message that lacks a role or content of text"
    return ""


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
        module = world
        world = load(module, "world", lambda made: made())  # type: ignore[operator]
        if spec not in WORLDS and isinstance(world, World):
            return Guarded(world, module)
    if not isinstance(world, World):
        missing = [m for m in ("name", "prompts", "reward", "cost") if not hasattr(world, m)]
        raise InputError(f"world: {spec!r} lacks {', '.join(missing)}; see riskalign.World")
    return world
