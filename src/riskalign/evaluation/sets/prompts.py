"""Sets of prompts with categories: files or hub ids, each prompt once, under an id that stays.

A row has `prompt` (text, or messages of which the last is the user's) and may have `category`.
XSTest's rows have `type`, which stands for the category where there is none, and `label`, `safe` or
`unsafe` (Röttger et al., "XSTest", arXiv 2308.01263); its older releases have no label, and there
a type that begins with `contrast_` is of unsafe prompts.
"""

import csv
import hashlib
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from riskalign.data.fields import Message, checked_text, encodable, refuse_row_fields
from riskalign.data.sources import source_rows, text_lines
from riskalign.errors import InputError
from riskalign.worlds import Prompt

Label = Literal["safe", "unsafe"]

_CSV = (".csv", ".csv.gz")
_CONTRAST = "contrast_"


@dataclass(frozen=True)
class SetPrompt:
    """A prompt of a set; `id` is the beginning of the SHA-256 of its messages."""

    id: str
    messages: tuple[Message, ...]
    category: str | None = None
    label: Label | None = None


@dataclass(frozen=True)
class RiskRecord:
    """R-Judge's record: an interaction as lines of text, oldest first; `category` is its scenario.

    `id` is the beginning of the SHA-256 of what the model is shown, `label` whether the agent was
    unsafe, `profile` what is known of the agent.
    """

    id: str
    category: str
    profile: str
    transcript: str
    label: bool


Item = TypeVar("Item", SetPrompt, RiskRecord)


@dataclass(frozen=True)
class EvaluationSet(Generic[Item]):
    """Different prompts or records in the order of their source.

    `duplicates` counts the rows that were left out because the same had come before; `left_out`
    those beyond `max_prompts`.
    """

    source: str
    items: tuple[Item, ...]
    duplicates: int = 0
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def asked(self: "EvaluationSet[SetPrompt]") -> list[Prompt]:
        """What `riskalign.models.sampling` answers."""
        return [Prompt(prompt.id, prompt.messages) for prompt in self.items]

    def categories(self) -> dict[str, list[Item]]:
        """The items of each category, in the order in which they come; without one, of none."""
        found: dict[str, list[Item]] = defaultdict(list)
        for item in self.items:
            if item.category is not None:
                found[item.category].append(item)
        return found

    def identity(self) -> str:
        """Hex SHA-256 of ids, categories and labels in their order."""
        content = [[item.id, item.category, item.label] for item in self.items]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load_prompt_set(
    source: str | Path,
    *,
    split: str = "train",
    prompt_field: str = "prompt",
    category_field: str | None = None,
    label_field: str = "label",
    labelled: bool = False,
    max_prompts: int | None = None,
) -> EvaluationSet[SetPrompt]:
    """Load a set of prompts; a prompt that comes again is dropped and counted.

    Args:
        source: a `.csv`, `.json`, `.jsonl` or `.parquet` file (the first three also with `.gz`), a
            folder that `datasets` can read, or a hub id.
        split: of a hub data set or a folder.
        prompt_field: the column of the prompts, text or messages.
        category_field: the column of the categories, which every row must then have; by default
            `category`, else `type`, of the rows that have one.
        label_field: the column of the labels.
        labelled: whether every row must say that it is safe or unsafe, by its label or, where
            there is none, its `type`; otherwise labels are not read.
        max_prompts: keep so many, from every category alike as far as it goes, and in each those
            whose ids come first in the alphabet: by chance, and the same everywhere.

    Raises:
        InputError: names the file, the line or row, the field and the remedy.
    """
    if max_prompts is not None and max_prompts < 1:
        raise InputError(f"max_prompts is {max_prompts}. Give 1 or more, or leave it out.")

    def read(row: Mapping[str, Any], where: str) -> SetPrompt:
        messages = _messages(row, prompt_field, where)
        category = _category(row, category_field, where)
        label = _label(row, label_field, where) if labelled else None
        return SetPrompt(_prompt_id(messages), messages, category, label)

    rows = ((where, read(row, where)) for where, row in plain_rows(source, split))
    return collect(source, rows, label_field, max_prompts)


def collect(
    source: str | Path, rows: Iterable[tuple[str, Item]], label_field: str, most: int | None = None
) -> EvaluationSet[Item]:
    """A set of items, each with where it stands: the first with each id, `most` of them.

    Raises:
        InputError: no item; or two with one id have different labels: says where both stand.
    """
    first: dict[str, tuple[str, Item]] = {}
    duplicates = 0
    for where, item in rows:
        first_where, same = first.setdefault(item.id, (where, item))
        if item.label != same.label:
            raise InputError(
                f"{where}: field '{label_field}': the same is {item.label} here and {same.label} "
                f"in {first_where}. Keep one of the two."
            )
        duplicates += same is not item
    if not first:
        raise InputError(f"{source}: holds no row. Give at least one.")
    # Each category's first comes before the second of any.
    places: dict[str | None, Iterator[int]] = defaultdict(itertools.count)
    ranked = [(next(places[item.category]), of) for of, (_, item) in sorted(first.items())]
    kept = {of for _, of in sorted(ranked)[:most]}
    items = tuple(item for of, (_, item) in first.items() if of in kept)
    return EvaluationSet(str(source), items, duplicates, len(first) - len(items))


def plain_rows(source: str | Path, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a source, each with where it stands.

    Raises:
        InputError: one is no object, or has fields for a chat template, which is not given them.
    """
    path = Path(source)
    is_csv = path.name.endswith(_CSV)
    for where, row in _csv_rows(path) if is_csv else source_rows(source, split, str(source)):
        refuse_row_fields(row, where)
        yield where, row


def optional_text(row: Mapping[str, Any], field: str, where: str) -> str | None:
    """The text in a row's field, None where there is none; `InputError` for anything else."""
    value = row.get(field)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: field '{field}' is {type(value).__name__}. Give text.")
    return None if value is None else encodable(value, field, where)


def _csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file. Check the path.")
    # The reader keeps the ends of lines that stand inside quotes.
    reader = csv.reader((f"{line}\n" for line in text_lines(path)), strict=True)
    try:
        rows = filter(None, reader)
        header = [name.strip() for name in next(rows, [])]
        if len(set(header)) < len(header):
            raise InputError(f"{path}: the header names a field twice: {header}. Drop one.")
        for row in rows:
            where = f"{path}, line {reader.line_num}"
            if len(row) != len(header):
                raise InputError(
                    f"{where}: {len(row)} fields where the header names {len(header)}. Put text "
                    "with commas or line ends in double quotes."
                )
            # An empty field of a CSV file is one that was left out.
            yield where, {name: cell for name, cell in zip(header, row, strict=True) if cell}
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV: {error}.") from error


def _messages(row: Mapping[str, Any], field: str, where: str) -> tuple[Message, ...]:
    if row.get(field) is None:
        found = ", ".join(sorted(map(str, row))) or "none"
        raise InputError(
            f"{where}: field '{field}' is missing (fields found: {found}). "
            "Give each row a prompt, or name the column that holds it (prompt_field)."
        )
    text = checked_text(row, field, where)
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    if not messages or not messages[-1]["content"].strip():
        raise InputError(f"{where}: field '{field}' is empty. Write a prompt, or drop the row.")
    if messages[-1]["role"] != "user":
        raise InputError(
            f"{where}: field '{field}': the last message is the {messages[-1]['role']}'s. End with "
            "the user's, which is to be answered."
        )
    return tuple(messages)


def _category(row: Mapping[str, Any], field: str | None, where: str) -> str | None:
    names = [field] if field else ["category", "type"]
    given = [name for name in names if row.get(name) is not None]
    if not given and field:
        raise InputError(
            f"{where}: field '{field}' is missing. Give each row a category, or name another "
            "column (category_field)."
        )
    for name in given[:1]:
        value = row[name]
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{where}: field '{name}' is {value!r}. Give the category's name.")
        return encodable(value.strip(), name, where)
    return None


def _label(row: Mapping[str, Any], field: str, where: str) -> Label:
    value, kind = row.get(field), row.get("type")
    if value is None and isinstance(kind, str):
        value = "unsafe" if kind.strip().startswith(_CONTRAST) else "safe"
    named = value.strip().lower() if isinstance(value, str) else value
    if named in ("safe", "unsafe"):
        return "safe" if named == "safe" else "unsafe"
    raise InputError(
        f"{where}: field '{field}' is {value!r}. Write safe or unsafe, or leave the column out and "
        "give each row XSTest's 'type'."
    )


def _prompt_id(messages: tuple[Message, ...]) -> str:
    # Role and content, and whatever else a message has.
    content = [[m["role"], m["content"], *([m] if len(m) > 2 else [])] for m in messages]
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
