"""Where preference rows come from: a hub id, a local file or folder, or objects in memory."""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow
import pyarrow.parquet
from datasets import Dataset, DatasetDict, Features, Json, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from riskalign.data.fields import ROW_FIELDS, is_marked_up
from riskalign.data.schema import check_rows
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

    Raises:
        InputError: names the file, the line or row, the field and the remedy.
    """
    name = name_for_errors or (str(source) if isinstance(source, str | Path) else "data")
    pairs = check_rows(source_rows(source, split, name))
    if not pairs:
        raise InputError(f"{name}: holds no row. Give at least one preference pair.")
    rows = [dict(pair) for pair in pairs]
    text = text_feature([row[side] for row in rows for side in ("prompt", "chosen", "rejected")])
    score = Value("float64")
    return in_columns(
        rows, prompt=text, chosen=text, rejected=text, score_chosen=score, score_rejected=score
    )


def text_feature(texts: Sequence[Any]) -> Any:
    """The feature that keeps texts, or lists of messages, as they are."""
    if isinstance(texts[0], str):
        return Value("string")
    if any(map(is_marked_up, texts)):
        return Json()
    return [{"role": Value("string"), "content": Value("string")}]


def in_columns(rows: list[dict[str, Any]], **features: Any) -> Dataset:
    """Checked rows as a data set, with what any row gives its chat template."""
    for field in ROW_FIELDS:
        if any(row.get(field) for row in rows):
            features[field] = Json()
            rows = [{field: None, **row} for row in rows]
    return Dataset.from_list(rows, features=Features(**features))


def source_rows(source: Source, split: str, name: str) -> Iterator[tuple[str, Any]]:
    """Unchecked rows of a source, each with where it stands: file and line, or number.

    Raises:
        InputError: a source that cannot be read.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if path.name.endswith(_SUFFIXES):
            return _file_rows(path)
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
    table = isinstance(source, Dataset)
    return (
        (f"{name}, row {i}", _unfilled(row) if table else row)
        for i, row in enumerate(source, start=1)
    )


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


def _file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path.")
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    lines = text_lines(path)
    if ".json" in path.suffixes and _is_array(lines):
        return _json_array(path, "\n".join(lines))
    return _json_lines(path, lines)


def _is_array(lines: list[str]) -> bool:
    return next((line for line in lines if line.strip()), "").lstrip().startswith("[")


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


def _json_lines(path: Path, lines: list[str]) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield where, json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{where}, column {error.colno}: not JSON: {error.msg}. "
                    "Write one JSON object a line."
                ) from error
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where}: {_UNREADABLE}") from error


def _json_array(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {_UNREADABLE}") from error
    return ((f"{path}, row {i}", row) for i, row in enumerate(rows, start=1))


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as parquet: {error}") from error
    rows = map(_unfilled, table.to_pylist())
    return ((f"{path}, row {i}", row) for i, row in enumerate(rows, start=1))
