"""Files and folders that appear whole or not at all; all that is replaced or removed passes here.

Everything is written under a temporary name and renamed when it is complete, so an interruption or
a full disk leaves the old content (or nothing), never half of the new one. In a folder that this
process holds (`folder.py`), the temporary name lies where the next holder sweeps, and only
what was made there is replaced or removed. Elsewhere it lies beside its target, and the next writer
of the target sweeps those of processes that are gone.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from riskalign.files.folder import OutputFolder, from_json, owner_of


def write_text(path: str | Path, text: str) -> None:
    """Replace the content of `path` by `text` (UTF-8) in one step."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replace the content of `path` in one step."""
    with _replacing(path) as temporary:
        temporary.write_bytes(content)


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
    return [from_json(line) for line in lines if line]


def link_or_copy(source: Path, path: str | Path) -> None:
    """Give a file a second name, or where the disk has none, a copy; replaces in one step."""
    with _replacing(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


@contextlib.contextmanager
def _replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name; the file written there takes the place of `path`."""
    target, owner = _target(path)
    with _temporary(target, owner) as place:
        # Not the target's own name, by which `_sweep_beside` knows what was put aside.
        yield place / "new"
        if owner is not None:
            owner.claim(target)
        (place / "new").replace(target)


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces `path` when the block ends without error."""
    with scratch(path) as temporary:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        move_folder(temporary, path)


@contextlib.contextmanager
def scratch(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder for what is to become `path`; gone when the block ends."""
    target, owner = _target(path)
    with _temporary(target, owner) as place:
        yield place


def move_folder(source: Path, path: str | Path) -> None:
    """Put a folder in the place of `path`, on the same disk."""
    target, owner = _target(path)
    if owner is not None:
        owner.claim(target, source)
    if not target.exists():
        source.replace(target)
        return
    # A folder cannot be renamed onto a full one: the old one steps aside first.
    with _temporary(target, owner) as place:
        aside = place / target.name if owner is None else owner.aside(target)
        aside.parent.mkdir(parents=True, exist_ok=True)
        target.replace(aside)
        try:
            source.replace(target)
        except OSError:
            aside.replace(target)
            raise
        if owner is not None:
            shutil.rmtree(aside, ignore_errors=True)


def remove(path: str | Path) -> None:
    """Remove a file or a folder, if there is one, in one step."""
    target, owner = _target(path)
    if not os.path.lexists(target):
        return
    if owner is not None:
        owner.claim(target, target if target.is_dir() else None)
    with _temporary(target, owner) as place:
        target.replace(place / target.name)


def _target(path: str | Path) -> tuple[Path, OutputFolder | None]:
    """A path without links in its folders, which are made, and who holds it."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target = target.parent.resolve() / target.name
    return target, owner_of(target)


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _prefix(target: Path) -> str:
    """Of temporary names: whose they are."""
    return f".{target.name}-{_host()}-{os.getpid()}-"


def _sweep_beside(target: Path) -> None:
    """Remove what processes of this host that are gone had under way for a target."""
    if sys.platform == "win32":  # where asking for a process ends it
        return
    ours = re.compile(re.escape(f".{target.name}-{_host()}-") + r"(\d{1,7})-[a-z0-9_]{8}")
    for name in os.listdir(target.parent):
        if (temporary := ours.fullmatch(name)) and _is_gone(int(temporary[1])):
            path = target.parent / name
            if path.is_dir() and not path.is_symlink():
                if (path / target.name).exists() and not target.exists():
                    (path / target.name).rename(target)  # put aside, and nothing in its place yet
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):  # another user's
                    path.unlink(missing_ok=True)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return False


@contextlib.contextmanager
def _temporary(target: Path, owner: OutputFolder | None) -> Iterator[Path]:
    beside = target.parent if owner is None else owner.tmp
    beside.mkdir(parents=True, exist_ok=True)
    if owner is None:
        _sweep_beside(target)
    place = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=beside))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
