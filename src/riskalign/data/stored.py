"""Rows as Arrow batches: few in memory, many in a file, of which is read what is needed."""

import itertools
import logging
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

#: Rows that are made at once.
BATCH = 256
#: Up to so many rows stay in memory: to read them from a file is no quicker than to make them.
HELD = 4096

logger = logging.getLogger(__name__)


def stored(batches: Iterable[pa.RecordBatch], path: Path | None = None) -> Dataset:
    """Batches of one schema (`Features.arrow_schema`), at least one, as a data set.

    More than `HELD` rows are written to `path`, or to a temporary file whose bytes go with the last
    who reads them. There is no file of fewer, and none where there is no room for it: then rows are
    held in memory, which is said.
    """
    rest, held, n = iter(batches), list[pa.RecordBatch](), 0
    for batch in rest:
        held.append(batch)
        n += batch.num_rows
        if n > HELD:
            break
    else:
        return _in_memory(held)
    everything = itertools.chain(held, rest)
    del held
    if path is not None:
        return _written(everything, path)
    try:
        scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    except OSError as error:
        _say_held(tempfile.gettempdir(), error)
        return _in_memory(everything)
    with scratch as folder:
        return _nameless(_written(everything, Path(folder) / "rows.arrow"))


def _nameless(rows: Dataset) -> Dataset:
    """Rows that no longer know of a file, whose bytes stay mapped.

    By its name other processes would look for it, and `datasets` would put files beside it.
    """
    return Dataset(rows.data.table, fingerprint=uuid.uuid4().hex)  # else one of all bytes


def _in_memory(batches: Iterable[pa.RecordBatch]) -> Dataset:
    return Dataset(pa.Table.from_batches(list(batches)))


def _written(batches: Iterator[pa.RecordBatch], path: Path) -> Dataset:
    """All batches in a file; only what writing raises is caught, not what the source does."""
    first = next(batches)
    try:
        sink = pa.OSFile(str(path), "wb")
        stream = pa.ipc.new_stream(sink, first.schema)
    except OSError as error:
        return _read_back(path, 0, itertools.chain([first], batches), error)
    done = 0
    for batch in itertools.chain([first], batches):
        try:
            stream.write_batch(batch)
        except OSError as error:
            sink.close()
            return _read_back(path, done, itertools.chain([batch], batches), error)
        done += 1
    try:
        stream.close()
        sink.close()
    except OSError as error:
        return _read_back(path, done, (), error)
    return Dataset.from_file(str(path))


def _read_back(path: Path, done: int, rest: Iterable[pa.RecordBatch], error: OSError) -> Dataset:
    """The batches of a file that was filled as far as there was room, and the rest, in memory."""
    _say_held(path.parent, error)
    before = []
    if done:
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
            before = [stream.read_next_batch() for _ in range(done)]
    path.unlink(missing_ok=True)
    return _in_memory(itertools.chain(before, rest))


def _say_held(folder: Path | str, error: OSError) -> None:
    logger.warning("%s: no room for rows, which are held in memory: %s", folder, error)
