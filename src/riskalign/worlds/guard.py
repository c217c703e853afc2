"""A user's world behind a door: what its code raises, or gives instead of prompts and scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from riskalign.errors import InputError, door
from riskalign.worlds.world import Prompt, Split, World


class Guarded:
    """A world whose every answer is checked; `InputError` names the world, the method and why."""

    def __init__(self, world: World, spec: str) -> None:
        self.unguarded = world
        self._spec = spec
        if not isinstance(world.name, str):
            raise self._wrong("name", f"is {world.name!r}, not text")
        self.name = world.name
        most = getattr(world, "max_cost", None)
        if not (most is None or (_is_number(most) and most > 0)):
            raise self._wrong("max_cost", f"is {most!r}, not a finite number above 0")
        self.max_cost = None if most is None else float(most)
        self.splits = tuple(getattr(world, "splits", ()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unguarded, name)

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """As the world's own; `eval`'s are compared with as many of `train`."""
        prompts = self._asked(split, n, seed)
        if split == "eval":
            trained_on = {str(prompt.messages) for prompt in self._asked("train", n, seed)}
            if any(str(prompt.messages) in trained_on for prompt in prompts):
                raise self._wrong("prompts", "gave one of 'train' again as one of 'eval'")
        return prompts

    def _asked(self, split: Split, n: int, seed: int) -> list[Prompt]:
        with self._door("prompts"):
            given = self.unguarded.prompts(split, n, seed)
            prompts = list(given) if isinstance(given, Iterable) else given
        if not isinstance(prompts, list):
            raise self._wrong("prompts", f"gave {type(prompts).__name__}, not a list of Prompt")
        for i, prompt in enumerate(prompts):
            if fault := _fault(prompt):
                raise self._wrong("prompts", f"gave at place {i} of {split!r} {fault}")
        if len(prompts) != n or len({prompt.id for prompt in prompts}) != n:
            ids = len({prompt.id for prompt in prompts})
            raise self._wrong("prompts", f"gave {len(prompts)} with {ids} ids for {n} of {split!r}")
        return prompts

    def reward(self, prompt: Prompt, answer: str) -> float:
        """As the world's own."""
        return self._score("reward", prompt, answer, least=-math.inf)

    def cost(self, prompt: Prompt, answer: str) -> float:
        """As the world's own."""
        return self._score("cost", prompt, answer, least=0.0)

    def _score(self, name: str, prompt: Prompt, answer: str, least: float) -> float:
        with self._door(name):
            value = getattr(self.unguarded, name)(prompt, answer)
        if not _is_number(value) or value < least:
            bound = ", 0 or more" if least == 0 else ""
            raise self._wrong(
                name, f"of an answer to {prompt.id!r} is {value!r}, not a finite number{bound}"
            )
        return float(value)

    def _door(self, method: str) -> Any:
        return door(f"world {self._spec!r}: {method}", "Mend the world's code.")

    def _wrong(self, member: str, problem: str) -> InputError:
        return InputError(f"world {self._spec!r}: {member} {problem}. Mend the world's code.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _fault(prompt: object) -> str:
    """What is wrong with a prompt; nothing where it is sound."""
    if not isinstance(prompt, Prompt):
        return f"{type(prompt).__name__}, not a Prompt"
    if not isinstance(prompt.id, str):
        return f"a Prompt with id {prompt.id!r}, which is not text"
    if isinstance(prompt.messages, str) or not prompt.messages:
        return f"a Prompt {prompt.id!r} with {prompt.messages!r} for messages"
    for message in prompt.messages:
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(field), str) for field in ("role", "content")
        ):
            return f"a Prompt {prompt.id!r} with a message that lacks a role or content of text"
    return ""
