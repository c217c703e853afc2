"""Files and folders that appear whole or not at all.

Everything is written under a temporary name beside its target and renamed when it is complete, so
an interruption or a full disk leaves the old content (or nothing), never half of the new one.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def write_text(path: str | Path, text: str) -> None:
    """Replace the content of `path` by `text` (UTF-8) in one step."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replace the content of `path` in one step."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        # mkstemp makes files for the owner alone; results are ordinary files.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def json_lines(rows: Iterable[Any]) -> str:
    """Rows as JSON, a line each."""
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def write_json_lines(path: str | Path, rows: Iterable[Any]) -> None:
    """Replace the content of `path` by rows, a line each, in one step."""
    write_text(path, json_lines(rows))


def read_json_lines(path: str | Path) -> list[Any]:
    """Read what `write_json_lines` wrote."""
    # A line separator inside a text is no end of a line, so `splitlines` would not do.
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or where the disk has none, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces `path` when the block ends without error."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        _replace_folder(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(temporary: Path, target: Path) -> None:
    if target.exists():
        # A folder cannot be renamed onto a full one: the old one steps aside first.
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
        target.replace(aside / target.name)
        try:
            temporary.replace(target)
        except OSError:
            (aside / target.name).replace(target)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    else:
        temporary.replace(target)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
