"""Where rows come from: a hub id, a local file or folder, or objects in memory."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow
import pyarrow.parquet
from datasets import Dataset, DatasetDict, Features, Json, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from riskalign.data.fields import ROW_FIELDS, is_marked_up
from riskalign.data.schema import (
    GROUPS,
    PAIRS,
    RESPONSES,
    Row,
    Shape,
    answers_of,
    check_rows,
    shape_of,
)
from riskalign.errors import InputError

Source: TypeAlias = str | Path | Dataset | DatasetDict | list[dict[str, Any]]

_UNREADABLE = "JSON nested too deep, or a number of too many digits. Drop it."
#: Fields whose objects differ from row to row, which a table fills up to be alike.
_FREE = ("tool_calls", *ROW_FIELDS)
_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet")


def load_pairs(source: Source, *, split: str = "train", name_for_errors: str = "") -> Dataset:
    """Load and check preference rows.

    Args:
        source: a hub id; the path of a `.json`, `.jsonl`, `.json.gz`, `.jsonl.gz` or `.parquet`
            file; a folder that `datasets` can read; a `datasets.Dataset`; a list of dicts.
        split: the split to take from a hub data set, a folder or a `DatasetDict`.
        name_for_errors: what errors call a source that has no name of its own.

    Returns:
        Columns `prompt`, `chosen`, `rejected` (text, or lists of messages), `score_chosen`,
        `score_rejected` (float or None), and `tools`, `chat_template_kwargs` where a row has them.

    Raises `InputError`: names the file, the line or row, the field and the remedy.
    """
    return load_rows(source, PAIRS, split=split, name=name_for_errors)


def load_groups(source: Source, *, split: str = "train", name: str = "") -> Dataset:
    """As `load_pairs`, for rows `prompt`, `completions`, `scores`."""
    return load_rows(source, GROUPS, split=split, name=name)


def load_unpaired(source: Source, *, split: str = "train", name: str = "") -> Dataset:
    """As `load_pairs`, for rows `prompt`, `completion`, `label`, or pairs as two of them each."""
    return load_rows(source, RESPONSES, split=split, name=name)


def load_rows(source: Source, shape: Shape, *, split: str = "train", name: str = "") -> Dataset:
    """Load and check rows of a shape; see `load_pairs`."""
    rows = list(checked_rows(source, shape, split=split, name=name))
    texts = [text for row in rows for text in (row["prompt"], *answers_of(row))]
    text: Any = [{"role": Value("string"), "content": Value("string")}]
    if isinstance(texts[0], str):
        text = Value("string")
    elif any(map(is_marked_up, texts)):
        text = Json()
    features = {"prompt": text, **shape.read(text)}
    for field in ROW_FIELDS:
        if any(row.get(field) for row in rows):
            features[field] = Json()
            rows = [{field: None, **row} for row in rows]
    return Dataset.from_list(rows, features=Features(features))


def checked_rows(
    source: Source, shape: Shape, *, split: str = "train", name: str = ""
) -> Iterator[Row]:
    """As `load_rows`, one by one."""
    name = name or (str(source) if isinstance(source, str | Path) else "data")
    rows = check_rows(source_rows(source, split, name), shape.check)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{name}: holds no row. Give at least one {shape.one}.")
    yield first
    yield from rows


def is_grouped(source: Source, *, split: str = "train", name: str = "data") -> bool:
    """Whether a source's first row is a group of scored answers; `InputError` if unreadable."""
    return shape_of(_first(source, split, name)) is GROUPS


def is_unpaired(source: Source, *, split: str = "train", name: str = "data") -> bool:
    """Whether a source's first row is a single response; `InputError` if unreadable."""
    return shape_of(_first(source, split, name)) is RESPONSES


def _first(source: Source, split: str, name: str) -> Mapping[str, Any]:
    return next((row for _, row in source_rows(source, split, name)), {})


def source_rows(source: Source, split: str, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a source, objects but unchecked, each with where it stands: file and line, or number.

    Raises `InputError` for a source that cannot be read, or a row that is no object.
    """
    for where, row in _rows(source, split, name):
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: expected an object with fields, got {type(row).__name__}.")
        yield where, row


def _rows(source: Source, split: str, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(source, str | Path):
        if Path(source).name.endswith(_SUFFIXES):
            return file_rows(Path(source))
        source = _load_named(source, split)
    if isinstance(source, DatasetDict):
        if split not in source:
            raise InputError(f"{name}: has no split '{split}' (found: {', '.join(source)}).")
        source = source[split]
    if not isinstance(source, Dataset | list):
        raise InputError(
            f"{name}: cannot read preference pairs from {type(source).__name__}. Give a path, a "
            "hub id, a datasets.Dataset (not a streaming one) or a list of dicts."
        )
    return _numbered(name, map(_unfilled, source) if isinstance(source, Dataset) else source)


def _numbered(name: str | Path, rows: Any) -> Iterator[tuple[str, Any]]:
    return ((f"{name}, row {i}", row) for i, row in enumerate(rows, start=1))


def _unfilled(value: Any, within: bool = False) -> Any:
    """A table's row, its tools and calls without keys that only other rows have values for."""
    if isinstance(value, dict):
        return {
            key: _unfilled(one, within or key in _FREE)
            for key, one in value.items()
            if not (within and one is None)
        }
    return [_unfilled(one, within) for one in value] if isinstance(value, list) else value


def _load_named(source: str | Path, split: str) -> Any:
    path = Path(source)
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return load_from_disk(str(path))
        return load_dataset(str(source), split=split)
    except (OSError, EOFError, zlib.error, ValueError, DatasetsError) as error:
        raise InputError(
            f"{source}: cannot be loaded as a data set (split '{split}'): {error} "
            f"Give a hub id, a folder, or a file ending in {', '.join(_SUFFIXES)}."
        ) from error


def file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Rows of a file (JSON lines, a JSON list, parquet), each with where it stands in it.

    Raises `InputError` for a file that cannot be read, or a row that is no JSON.
    """
    if not os.path.isfile(path):  # unlike `is_file`, also False for a name that is too long
        raise InputError(f"{path}: no such file. Check the path.")
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    lines = text_lines(path)
    first = next((line for line in lines if line.strip()), "")
    if ".json" in path.suffixes and first.lstrip().startswith("["):
        return _numbered(path, _from_json("\n".join(lines), path))
    return (
        (f"{path}, line {number}", _from_json(line, path, number))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as parquet: {error}") from error
    for where, row in _numbered(path, zip(*table.columns, strict=True)):
        values = {}
        for field, value in zip(table.column_names, row, strict=True):
            if field in values:
                raise InputError(f"{path}: field {field!r} stands there twice. Keep one.")
            try:
                values[field] = value.as_py()
            except UnicodeDecodeError as error:
                raise InputError(f"{where}: field {field!r} is not UTF-8. Convert it.") from error
        yield where, _unfilled(values)


def text_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file, gzip-compressed where it ends in `.gz`; `InputError` if unreadable."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    try:
        return raw.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}, byte {error.start + 1} of the file: not UTF-8. "
            "Convert the file, e.g. with iconv -t UTF-8."
        ) from error


def _from_json(text: str, path: Path, line: int | None = None) -> Any:
    """What a file's text says, or one line's of a file of JSON lines."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        place, problem = f"{path}, line {line}" if line else str(path), _UNREADABLE
        if isinstance(error, json.JSONDecodeError):
            place = f"{path}, line {line or error.lineno}, column {error.colno}"
            problem = f"not JSON: {error.msg}. {'Write one JSON object a line.' if line else ''}"
        elif isinstance(error, InputError):
            problem = str(error)
        raise InputError(f"{place}: {problem}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for field, value in pairs:
        if field in fields:
            raise InputError(f"field {field!r} stands there twice. Keep one.")
        fields[field] = value
    return fields
