"""Where rows come from: a hub id, a local file or folder, or objects in memory."""

import gzip
import itertools
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow
import pyarrow.parquet
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    Json,
    Value,
    load_dataset,
    load_from_disk,
)
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
from riskalign.data.stored import BATCH, stored
from riskalign.errors import InputError

Source: TypeAlias = (
    str
    | Path
    | Dataset
    | DatasetDict
    | IterableDataset
    | IterableDatasetDict
    | list[dict[str, Any]]
)

logger = logging.getLogger(__name__)

_UNREADABLE = "JSON nested too deep, or a number of too many digits. Drop it."
#: Fields whose objects differ from row to row, which a table fills up to be alike.
_FREE = ("tool_calls", *ROW_FIELDS)
_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet")


def load_pairs(
    source: Source, *, split: str = "train", name_for_errors: str = "", most: int | None = None
) -> Dataset:
    """Load and check preference rows.

    Args:
        source: a hub id; the path of a `.json`, `.jsonl`, `.json.gz`, `.jsonl.gz` or `.parquet`
            file; a folder that `datasets` can read; a `datasets.Dataset` or `IterableDataset`; a
            list of dicts.
        split: the split to take from a hub data set, a folder or a `DatasetDict`.
        name_for_errors: what errors call a source that has no name of its own.
        most: the number of rows to take from the beginning; needed for a stream.

    Returns:
        Columns `prompt`, `chosen`, `rejected` (text, or lists of messages), `score_chosen`,
        `score_rejected` (float or None), and `tools`, `chat_template_kwargs` where a row has them.
        More than a few thousand rows are read from a temporary file.

    Raises `InputError`: names the file, the line or row, the field and the remedy.
    """
    return load_rows(source, PAIRS, split=split, name=name_for_errors, most=most)


def load_groups(
    source: Source, *, split: str = "train", name: str = "", most: int | None = None
) -> Dataset:
    """As `load_pairs`, for rows `prompt`, `completions`, `scores`."""
    return load_rows(source, GROUPS, split=split, name=name, most=most)


def load_unpaired(
    source: Source, *, split: str = "train", name: str = "", most: int | None = None
) -> Dataset:
    """As `load_pairs`, for rows `prompt`, `completion`, `label`, or pairs as two of them each."""
    return load_rows(source, RESPONSES, split=split, name=name, most=most)


def load_rows(
    source: Source, shape: Shape, *, split: str = "train", name: str = "", most: int | None = None
) -> Dataset:
    """Load and check rows of a shape, of a long source the first `most`; see `load_pairs`."""
    needed: set[str] = set()
    while True:
        rows = checked_rows(source, shape, split=split, name=name, most=most)
        try:
            return stored(_tables(rows, shape, needed))
        except _NeedsMore as more:
            needed = needed | more.columns


class _NeedsMore(Exception):  # noqa: N818 - it says what happened
    """A row after the first ones has what their columns have no place for."""

    def __init__(self, columns: set[str]) -> None:
        super().__init__(columns)
        self.columns = columns


def _tables(rows: Iterator[Row], shape: Shape, needed: set[str]) -> Iterator[pyarrow.RecordBatch]:
    """Rows as Arrow, in columns with a place for `needed` and for what the first rows have."""
    features = None
    while some := list(itertools.islice(rows, BATCH)):
        found = {field for field in ROW_FIELDS if any(row.get(field) for row in some)}
        texts = [text for row in some for text in (row["prompt"], *answers_of(row))]
        if not isinstance(texts[0], str) and any(map(is_marked_up, texts)):
            found.add("message")
        if features is None:
            needed = needed | found
            features = _features(shape, isinstance(texts[0], str), needed)
        elif found - needed:
            raise _NeedsMore(found)
        whole = [{name: row.get(name) for name in features} for row in some]
        table = Dataset.from_list(whole, features=features)
        yield from table.data.table.combine_chunks().to_batches()


def _features(shape: Shape, plain: bool, needed: set[str]) -> Features:
    text: Any = [{"role": Value("string"), "content": Value("string")}]
    if plain:
        text = Value("string")
    elif "message" in needed:
        text = Json()
    free = {field: Json() for field in ROW_FIELDS if field in needed}
    return Features({"prompt": text, **shape.read(text), **free})


def checked_rows(
    source: Source,
    shape: Shape,
    *,
    split: str = "train",
    name: str = "",
    most: int | None = None,
    more: Callable[[], object] = lambda: None,
) -> Iterator[Row]:
    """As `load_rows`, one by one; `more` is called where rows behind the first ones are left."""
    name = name or (str(source) if isinstance(source, str | Path) else "data")
    rows = check_rows(first_rows(source, split, name, most, more), shape.check)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{name}: holds no row. Give at least one {shape.one}.")
    yield first
    yield from rows


def first_rows(
    source: Source,
    split: str,
    name: str,
    most: int | None,
    more: Callable[[], object] = lambda: None,
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The first `most` rows of a source, which is said where there are others."""
    if most is None and is_stream(source):
        raise InputError(
            f"{name}: is a stream, of which nobody knows the end. Set max_train_samples (of rows "
            "to evaluate on, max_eval_samples) to the number of rows to read."
        )
    rows = source_rows(source, split, name)
    n = 0
    for row in itertools.islice(rows, most):
        n += 1
        yield row
    if most is not None and next(rows, None) is not None:
        logger.warning(first_words(name, n))
        more()
    elif most is not None and is_stream(source):
        logger.warning("%s: the stream ended after %d of %d rows.", name, n, most)


def first_words(name: str, n: int) -> str:
    """What is said where others than the first rows are left."""
    return f"{name}: the first {n} rows are taken, and no others."


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
    source = opened(source, split, name)
    if isinstance(source, Path):
        return file_rows(source)
    if isinstance(source, Dataset):
        return _numbered(name, map(_unfilled, _dataset_rows(source)))
    return _numbered(name, map(_unfilled, source) if is_stream(source) else source)


def opened(
    source: Source, split: str, name: str
) -> Path | Dataset | IterableDataset | list[dict[str, Any]]:
    """A file's path, or the rows that a source has in a split, which are not read yet."""
    if isinstance(source, str | Path):
        if Path(source).name.endswith(_SUFFIXES):
            return Path(source)
        source = _load_named(source, split)
    if isinstance(source, DatasetDict | IterableDatasetDict):
        if split not in source:
            raise InputError(f"{name}: has no split '{split}' (found: {', '.join(source)}).")
        source = source[split]
    if not isinstance(source, Dataset | IterableDataset | list):
        raise InputError(
            f"{name}: cannot read preference pairs from {type(source).__name__}. Give a path, a "
            "hub id, a datasets.Dataset (or a streaming one) or a list of dicts."
        )
    return source


def streamed(source: Source, split: str, name: str) -> Source:
    """A hub id's or a folder's rows as a stream, of which nothing is fetched before it is read.

    Files are read in parts anyway, and objects are there; they stay as they are.
    """
    if not isinstance(source, str | Path) or Path(source).name.endswith(_SUFFIXES):
        return source
    return _load_named(source, split, streaming=True)


def is_stream(source: Source) -> bool:
    """Whether a source's rows come one by one, without a number or an end that is known."""
    return isinstance(source, IterableDataset | IterableDatasetDict)


def _dataset_rows(rows: Dataset) -> Iterator[dict[str, Any]]:
    for some in rows.iter(BATCH):
        yield from (dict(zip(some, row, strict=True)) for row in zip(*some.values(), strict=True))


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


def _load_named(source: str | Path, split: str, streaming: bool = False) -> Any:
    path = Path(source)
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return load_from_disk(str(path))
        return load_dataset(str(source), split=split, streaming=streaming)
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
    begin = list[str]()
    for line in lines:
        begin.append(line)
        if line.strip():
            break
    lines = itertools.chain(begin, lines)
    if ".json" in path.suffixes and begin and begin[-1].lstrip().startswith("["):
        return _numbered(path, _from_json("\n".join(lines), path))
    return (
        (f"{path}, line {number}", _from_json(line, path, number))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := [name for name in names if names.count(name) > 1]:
                raise InputError(f"{path}: field {twice[0]!r} stands there twice. Keep one.")
            parts = (
                part for batch in file.iter_batches(BATCH) for part in zip(*batch, strict=True)
            )
            for where, row in _numbered(path, parts):
                yield where, _unfilled(_plain_values(row, names, where))
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as parquet: {error}") from error


def _plain_values(row: Sequence[Any], names: list[str], where: str) -> dict[str, Any]:
    values = {}
    for field, value in zip(names, row, strict=True):
        try:
            values[field] = value.as_py()
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: field {field!r} is not UTF-8. Convert it.") from error
    return values


def text_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file, gzip-compressed where it ends in `.gz`; `InputError` if unreadable."""
    before = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                yield _text(raw, path, number, before)
                before += len(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _text(raw: bytes, path: Path, number: int, before: int) -> str:
    """A line without its end, and without the mark that a file may begin with."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}, byte {before + error.start + 1} of the file: not UTF-8. "
            "Convert the file, e.g. with iconv -t UTF-8."
        ) from error
    return text.removesuffix("\n").removeprefix("\ufeff" if number == 1 else "")


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
