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

from riskalign.data.fields import refuse_row_fields, said_fields
from riskalign.data.sources import source_rows
from riskalign.errors import InputError
from riskalign.evaluation.judges.client import Message

_ROLES = ("system", "user", "assistant")
_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet")

Conversation = tuple[Message, ...]


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
        prompt_id = _prompt_id(row, where)
        prompt = None if row.get("prompt") is None else conversation(row["prompt"], where)
        if prompt_id is None and prompt is None:
            raise InputError(
                f"{where}: fields 'prompt' and 'prompt_id' are missing (fields found: "
                f"{', '.join(sorted(row)) or 'none'}). Give one of them."
            )
        # A table has every column in every row.
        field = "answer" if row.get("answer") is not None else "text"
        if row.get(field) is None:
            raise InputError(
                f"{where}: field 'answer' is missing (fields found: {', '.join(sorted(row))}). "
                "Give the system's answer there, or in 'text'."
            )
        rows.append(Row(where, prompt_id, prompt, _text(row[field], field, where)))
    return rows


def read_prompts(path: Path) -> dict[str, Conversation]:
    """Prompts by id, from rows with `prompt_id` and `prompt`.

    Raises:
        InputError: names file, line, field and remedy.
    """
    found: dict[str, Conversation] = {}
    for where, row in _rows(path):
        prompt_id = _prompt_id(row, where)
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
    by_id = all(row.prompt_id is not None for rows in systems.values() for row in rows)
    texts = dict(prompts)
    for rows in systems.values():
        for row in rows:
            if row.prompt_id is not None and row.prompt is not None:
                known = texts.setdefault(row.prompt_id, row.prompt)
                if known != row.prompt:
                    raise InputError(
                        f"{row.where}: prompt_id {row.prompt_id!r} has another prompt elsewhere. "
                        "Give each prompt an id of its own, or leave prompt_id out."
                    )
    messages: dict[str, Conversation] = {}
    answers: dict[str, dict[str, list[str]]] = {name: {} for name in systems}
    for name, rows in systems.items():
        for row in rows:
            prompt = row.prompt if row.prompt is not None else texts.get(row.prompt_id or "")
            if prompt is None:
                raise InputError(
                    f"{row.where}: the prompt of prompt_id {row.prompt_id!r} is not known. Give "
                    "--prompts: a file with 'prompt_id' and 'prompt', or the run's folder."
                )
            key = row.prompt_id if by_id and row.prompt_id is not None else _hash(prompt)
            messages.setdefault(key, prompt)
            answers[name].setdefault(key, []).append(row.answer)
    _check_matched(list(messages), answers)
    return [
        Item(key, prompt, {name: tuple(own[key]) for name, own in answers.items()})
        for key, prompt in messages.items()
    ]


def conversation(value: Any, where: str) -> Conversation:
    """A prompt as messages; text is one message of the user.

    Raises:
        InputError: it is neither text nor a list of messages.
    """
    if isinstance(value, str):
        return (Message("user", _text(value, "prompt", where)),)
    if isinstance(value, list | tuple) and value:
        found = []
        for i, message in enumerate(value, start=1):
            role = message.get("role") if isinstance(message, Mapping) else None
            if role not in _ROLES:
                raise InputError(
                    f"{where}: field 'prompt', message {i}: expected 'role' (one of "
                    f"{', '.join(_ROLES)}) and 'content'."
                )
            if lost := said_fields(message):
                raise InputError(
                    f"{where}: field 'prompt', message {i}: has '{lost[0]}', which a judge is not "
                    "shown. Write it into 'content', or drop the field."
                )
            found.append(Message(role, _text(message.get("content"), "prompt", where)))
        return tuple(found)
    raise InputError(
        f"{where}: field 'prompt' is {type(value).__name__} or empty. Give text or a list of "
        '{"role", "content"} messages.'
    )


def _check_matched(keys: Sequence[str], answers: Mapping[str, Mapping[str, list[str]]]) -> None:
    first, *others = answers
    for name in others:
        odd = [k for k in keys if len(answers[first].get(k, ())) != len(answers[name].get(k, ()))]
        if odd:
            counts = [len(answers[system].get(odd[0], ())) for system in (first, name)]
            raise InputError(
                f"answers: {first!r} and {name!r} differ in {len(odd)} of {len(keys)} prompts: to "
                f"{odd[0]!r} the one has {counts[0]} answer(s), the other {counts[1]}. Give both "
                "the same number of answers to the same prompts."
            )


def _rows(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    if not path.name.endswith(_ENDINGS):
        # Other names would be looked up at the hub.
        raise InputError(f"{path}: give a file ending in {', '.join(_ENDINGS)}.")
    rows = list(source_rows(path, "train", str(path)))
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: expected an object with fields, got {type(row).__name__}.")
        refuse_row_fields(row, where)
    if not rows:
        raise InputError(f"{path}: holds no row.")
    return rows


def _prompt_id(row: Mapping[str, Any], where: str) -> str | None:
    found = row.get("prompt_id")
    if found is not None and not isinstance(found, str):
        raise InputError(f"{where}: field 'prompt_id' is {type(found).__name__}. Give text.")
    return found


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: field '{field}' is {type(value).__name__}. Give text.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: field '{field}', character {error.start + 1} is half of a character. Write "
            "the whole character, or drop it."
        ) from None
    return value


def _hash(prompt: Conversation) -> str:
    return hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:16]
