"""Read systems' answers from files and match them by prompt.

A row has `prompt` (text, or messages) and `answer`; or `prompt_id` and `answer` or `text`, as in
the files `evaluation/*.jsonl` of a run, with the prompts given apart. Several rows for one prompt
are several answers to it, matched in the order in which they stand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riskalign.data.fields import checked_text, said_fields
from riskalign.errors import InputError
from riskalign.evaluation.judges.client import Turn
from riskalign.evaluation.sets.prompts import optional_text, plain_rows

_ROLES = ("system", "user", "assistant")
_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet")

Conversation = tuple[Turn, ...]


@dataclass(frozen=True)
class Row:
    """One answer in a file; one of `prompt_id` and `prompt` may be None."""

    where: str
    prompt_id: str | None
    prompt: Conversation | None
    answer: str


@dataclass(frozen=True)
class Item:
    """A prompt and every system's answers to it, the same number of each."""

    prompt_id: str
    messages: Conversation
    answers: Mapping[str, tuple[str, ...]]


def read_answers(path: Path) -> list[Row]:
    """A system's answers.

    Raises:
        InputError: names file, line, field and remedy.
    """
    rows = []
    for where, row in _rows(path):
        prompt_id = optional_text(row, "prompt_id", where)
        prompt = None if row.get("prompt") is None else conversation(row["prompt"], where)
        # A table has every column in every row.
        answer = optional_text(row, "answer" if row.get("answer") is not None else "text", where)
        if answer is None or (prompt_id is None and prompt is None):
            missing = "'answer' and 'text'" if answer is None else "'prompt' and 'prompt_id'"
            fields = ", ".join(sorted(row)) or "none"
            raise InputError(
                f"{where}: fields {missing} are missing (fields found: {fields}). Give one of them."
            )
        rows.append(Row(where, prompt_id, prompt, answer))
    return rows


def read_prompts(path: Path) -> dict[str, Conversation]:
    """Prompts by id, from rows with `prompt_id` and `prompt`.

    Raises:
        InputError: names file, line, field and remedy.
    """
    found: dict[str, Conversation] = {}
    for where, row in _rows(path):
        prompt_id = optional_text(row, "prompt_id", where)
        if prompt_id is None or row.get("prompt") is None:
            raise InputError(f"{where}: give each prompt both 'prompt_id' and 'prompt'.")
        prompt = conversation(row["prompt"], where)
        if found.setdefault(prompt_id, prompt) != prompt:
            raise InputError(f"{where}: prompt_id {prompt_id!r} stands for another prompt above.")
    return found


def match(systems: Mapping[str, Sequence[Row]], prompts: Mapping[str, Conversation]) -> list[Item]:
    """Each prompt with all systems' answers: by `prompt_id` if every row has one, else by prompt.

    Args:
        systems: rows by system.
        prompts: what the ids stand for, where rows do not hold it.

    Raises:
        InputError: a prompt that is not known, that two rows tell differently, or that the systems
            did not answer equally often.
    """
    rows = [(name, row) for name, own in systems.items() for row in own]
    texts = dict(prompts)
    for _, row in rows:
        if row.prompt_id is None or row.prompt is None:
            continue
        if texts.setdefault(row.prompt_id, row.prompt) != row.prompt:
            raise InputError(
                f"{row.where}: prompt_id {row.prompt_id!r} has another prompt elsewhere. "
                "Give each prompt an id of its own, or leave prompt_id out."
            )
    by_id = all(row.prompt_id is not None for _, row in rows)
    messages: dict[str, Conversation] = {}
    answers: dict[str, dict[str, list[str]]] = {name: {} for name in systems}
    for name, row in rows:
        prompt = row.prompt if row.prompt is not None else texts.get(row.prompt_id or "")
        if prompt is None:
            raise InputError(
                f"{row.where}: the prompt of prompt_id {row.prompt_id!r} is not known. Give "
                "--prompts: a file with 'prompt_id' and 'prompt', or the run's folder."
            )
        key = row.prompt_id if by_id and row.prompt_id is not None else _hash(prompt)
        messages.setdefault(key, prompt)
        answers[name].setdefault(key, []).append(row.answer)
    first = next(iter(systems))
    for name in systems:
        counts = [[len(answers[each].get(key, ())) for each in (first, name)] for key in messages]
        odd = [(key, n) for key, n in zip(messages, counts, strict=True) if n[0] != n[1]]
        for key, (one, other) in odd[:1]:
            raise InputError(
                f"answers: {first!r} and {name!r} differ in {len(odd)} of {len(messages)} prompts: "
                f"to {key!r} the one has {one} answer(s), the other {other}. Give both the same "
                "number of answers to the same prompts."
            )
    return [
        Item(key, prompt, {name: tuple(own[key]) for name, own in answers.items()})
        for key, prompt in messages.items()
    ]


def conversation(value: Any, where: str) -> Conversation:
    """A prompt as messages; text is one message of the user.

    Raises:
        InputError: it is neither text nor a list of messages that a judge can be shown.
    """
    text = checked_text({"prompt": value}, "prompt", where)
    if isinstance(text, str):
        return (Turn("user", text),)
    if not text:
        raise InputError(f"{where}: field 'prompt' is empty. Give text or a list of messages.")
    for number, message in enumerate(text, start=1):
        place = f"{where}: field 'prompt', message {number}"
        if message["role"] not in _ROLES:
            raise InputError(f"{place}: 'role' must be one of {', '.join(_ROLES)}.")
        if lost := said_fields(message):
            raise InputError(
                f"{place}: has '{lost[0]}', which a judge is not shown. Write it into 'content', "
                "or drop the field."
            )
    return tuple(Turn(message["role"], message["content"]) for message in text)


def _rows(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    if not path.name.endswith(_ENDINGS):
        # Other names would be looked up at the hub.
        raise InputError(f"{path}: give a file ending in {', '.join(_ENDINGS)}.")
    rows = list(plain_rows(path, "train"))
    if not rows:
        raise InputError(f"{path}: holds no row.")
    return rows


def _hash(prompt: Conversation) -> str:
    return hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:16]
