"""Sets of prompts with categories: files or hub ids, each prompt once, under an id that stays.

A row has `prompt` (text, or messages of which the last is the user's) and may have `category`.
XSTest's rows have `type`, which stands for the category where there is none, and `label`, `safe` or
`unsafe` (Röttger et al., "XSTest", arXiv 2308.01263); its older releases have no label, and there
a type that begins with `contrast_` is of unsafe prompts.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

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
class PromptSet:
    """Different prompts in the order of their source.

    `duplicates` counts the rows that were left out because their prompt had come before;
    `left_out` those beyond `max_prompts`.
    """

    source: str
    prompts: tuple[SetPrompt, ...]
    duplicates: int = 0
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    def asked(self) -> list[Prompt]:
        """What `riskalign.models.sampling` answers."""
        return [Prompt(prompt.id, prompt.messages) for prompt in self.prompts]

    def categories(self) -> list[str]:
        """The categories, each once, in the order in which they come."""
        return list(dict.fromkeys(p.category for p in self.prompts if p.category is not None))

    def identity(self) -> str:
        """Hex SHA-256 of prompts, categories and labels in their order."""
        content = [[p.id, p.category, p.label] for p in self.prompts]
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
) -> PromptSet:
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
    prompts, duplicates = different(rows, lambda prompt: prompt.label, label_field)
    if not prompts:
        raise InputError(f"{source}: holds no prompt. Give at least one row.")
    kept = set(_even_choice(prompts)[:max_prompts])
    chosen = tuple(prompt for prompt in prompts if prompt.id in kept)
    return PromptSet(str(source), chosen, duplicates, len(prompts) - len(chosen))


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_HasId)


def different(
    rows: Iterable[tuple[str, T]], label: Callable[[T], str | None], field: str
) -> tuple[list[T], int]:
    """The first with each id, and how many more there were.

    Raises:
        InputError: two with one id have different labels; names where both stand, and the field.
    """
    first: dict[str, tuple[str, T]] = {}
    more = 0
    for where, one in rows:
        first_where, same = first.setdefault(one.id, (where, one))
        if label(one) != label(same):
            raise InputError(
                f"{where}: field '{field}': the same is {label(one)} here and {label(same)} in "
                f"{first_where}. Keep one of the two."
            )
        more += same is not one
    return [one for _, one in first.values()], more


def plain_rows(source: str | Path, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a source, each with where it stands.

    Raises:
        InputError: one is no object, or has fields for a chat template, which is not given them.
    """
    path = Path(source)
    is_csv = path.name.endswith(_CSV)
    for where, row in _csv_rows(path) if is_csv else source_rows(source, split, str(source)):
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: expected an object with fields, got {type(row).__name__}.")
        refuse_row_fields(row, where)
        yield where, row


def _even_choice(prompts: Sequence[SetPrompt]) -> list[str]:
    """Ids in the order in which a choice takes them: each category's first, then its second."""
    ranked = []
    for category in {prompt.category for prompt in prompts}:
        own = sorted(prompt.id for prompt in prompts if prompt.category == category)
        ranked += list(enumerate(own))
    return [prompt_id for _, prompt_id in sorted(ranked)]


def _csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    if not path.is_file():
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
