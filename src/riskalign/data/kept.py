"""Tokenized rows kept for the next run, by a hash of all that they are made of.

A folder of the cache has `rows.arrow` and `about.json`, and appears whole or not at all. Who comes
while it is being made waits, so that of many processes one works.
"""

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from riskalign.data.schema import SHAPES
from riskalign.data.stored import BATCH, HELD
from riskalign.data.tokenize import PairCounts, Prepared
from riskalign.files.atomic import move_folder, scratch
from riskalign.files.cache import file_sha256, rows_folder

#: A file of fewer bytes is read and tokenized in no time.
SMALL_FILE = 1 << 20
#: Libraries that decide what becomes of a row.
_LIBRARIES = ("datasets", "jinja2", "pyarrow", "tokenizers", "transformers")

logger = logging.getLogger(__name__)


def kept(key: Mapping[str, Any], make: Callable[[Path | None], Prepared]) -> tuple[Prepared, bool]:
    """What `make` made of the same `key` before, else what it makes now, and whether it did.

    What is made is kept. `make` is given the file to put its rows in, if there are many, or None
    where nothing can be kept, which is said. A kept file that is not whole is made anew, and said.
    """
    text = json.dumps({**key, "code": code_hash()}, sort_keys=True)
    folder = rows_folder(hashlib.sha256(text.encode()).hexdigest())
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_alone(folder))
            if (found := _read(folder)) is not None:
                return found, False
            # One name for all, so that what a killed process left goes with whoever comes next.
            place = stack.enter_context(scratch(folder.parent / "unfinished")) / "rows"
            place.mkdir()
        except (OSError, NotImplementedError) as error:
            logger.warning("%s: rows cannot be kept there for the next run: %s", folder, error)
            return make(None), True
        made = make(place / "rows.arrow")
        if not (place / "rows.arrow").exists():  # few, or there is no room
            return made, True
        about = {
            "bytes": (place / "rows.arrow").stat().st_size,
            "shape": made.shape.one,
            "counts": dataclasses.asdict(made.counts),
            "said": made.said,
            "bare": made.bare,
            "more": made.more,
        }
        try:
            (place / "about.json").write_text(json.dumps(about), "utf-8")
            move_folder(place, folder)
        except OSError as error:
            logger.warning("%s: rows cannot be kept there for the next run: %s", folder, error)
            return made, True
        return _read(folder) or made, True


def _alone(folder: Path) -> contextlib.AbstractContextManager[Any]:
    """Holds the lock of a folder, once nobody else does; it goes with its process in any case."""
    lock = filelock.FileLock(f"{folder}.lock")
    try:
        return lock.acquire(timeout=0)
    except filelock.Timeout:
        logger.info("%s: another process makes the same rows, which are waited for.", folder)
        return lock.acquire()


def _read(folder: Path) -> Prepared | None:
    if not folder.exists():
        return None
    file = folder / "rows.arrow"
    try:
        about = json.loads((folder / "about.json").read_text("utf-8"))
        counts = PairCounts(**about["counts"])
        rows = Dataset.from_file(str(file))
        if file.stat().st_size != about["bytes"] or len(rows) != counts.kept:
            raise ValueError("a part is missing")
        shape = SHAPES[about["shape"]]
        return Prepared(rows, counts, shape, about["said"], about["bare"], about["more"])
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        logger.warning("%s: is broken and made anew: %s", folder, error)
        return None


def source_hash(source: Path | Dataset | IterableDataset | list[Any]) -> str | None:
    """A hash of a source's content; None for one too small to keep, or of which it is not known.

    Lists are in memory, and what a stream holds is not known before it is read.
    """
    if isinstance(source, Path):
        try:
            return file_sha256(source) if source.stat().st_size >= SMALL_FILE else None
        except OSError:  # who reads it says so
            return None
    if not isinstance(source, Dataset) or len(source) <= HELD:
        return None
    if source.format["type"] == "custom":  # rows are what a function makes of them
        return None
    digest = hashlib.sha256(repr((source.features, source.format)).encode())
    for table in source.with_format("arrow").iter(BATCH):
        # Taken out, rows no longer show which others lie beside them.
        own = table.take(pa.array(range(len(table)))).combine_chunks()
        for batch in own.to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A hash of what a tokenizer does with text and messages; None where it is not to be known."""
    if not (tokenizer.is_fast and type(tokenizer).__module__.startswith("transformers.")):
        return None
    tokenizer("a")  # drops the padding and truncation of other calls
    backend: Any = tokenizer
    told = [
        type(tokenizer).__qualname__,
        backend.backend_tokenizer.to_str(),
        tokenizer.chat_template,
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        sorted(tokenizer.all_special_ids),
        tokenizer.split_special_tokens,
        # Such a template writes the day.
        str(datetime.date.today()) if "strftime_now" in str(tokenizer.chat_template) else "",
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@functools.cache
def code_hash() -> str:
    """A hash of the code that reads, checks and tokenizes rows, and of the libraries' versions."""
    own = {path.name: path.read_bytes() for path in Path(__file__).parent.glob("*.py")}
    told: dict[str, Any] = {name: hashlib.sha256(code).hexdigest() for name, code in own.items()}
    told |= {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
