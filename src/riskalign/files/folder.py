"""Output folders: one process writes in one at a time, and replaces only what was made there.

`hold` locks a folder and keeps in `.riskalign/made.jsonl` the path of each file before it is
written. All that is replaced or removed passes `OutputFolder.claim` (see `atomic.py`), which
refuses whatever is not on record: it is the user's own.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote

from riskalign.errors import InputError
from riskalign.files.ranks import refuse_several

if sys.platform != "win32":
    import fcntl

OWN = ".riskalign"
_RECORD = "made.jsonl"


@dataclass(frozen=True)
class Outputs:
    """What a command writes below a folder: files, trees that are replaced, folders of others.

    Those `folders` have records of their own.
    """

    files: Sequence[str]
    trees: Sequence[str] = ()
    folders: Sequence[str] = ()


@dataclass
class OutputFolder:
    """A folder that this process holds; `tmp` in it is for what is under way."""

    root: Path
    tmp: Path
    made: set[str] = field(default_factory=set)

    def claim(self, target: Path, content: Path | None = None) -> None:
        """Put `target`, about to be replaced or removed, on record; a tree with `content`'s files.

        Raises:
            InputError: something lies there that is not on record.
        """
        name = target.relative_to(self.root).as_posix()
        if _foreign(self.root, name, self.made):
            self.made |= _read_made(self.root)  # another part's holder writes there as well
            if found := _foreign(self.root, name, self.made):
                raise _refusal(self.root, found)
        names = [name] if content is None else [f"{name}/{each}" for each in files_below(content)]
        if new := [each for each in names if each not in self.made]:
            self.note(new)
            self.made.update(new)

    def note(self, names: Iterable[str]) -> None:
        """Append to the record."""
        with (self.root / OWN / _RECORD).open("a", encoding="utf-8") as record:
            # A line that a kill cut off ends here, and spoils no other.
            record.write("".join(f"\n{json.dumps(each)}" for each in names))

    def aside(self, target: Path) -> Path:
        """Where a folder steps aside while another takes its place; `_sweep` brings it back."""
        name = quote(target.relative_to(self.root).as_posix(), safe="")
        return self.tmp / "aside" / name


_held: list[OutputFolder] = []


def owner_of(target: Path) -> OutputFolder | None:
    """The innermost folder held by this process that a path lies in."""
    place = target.parent.resolve()
    found = [
        each
        for each in _held
        if place.is_relative_to(each.root) and not place.is_relative_to(each.root / OWN)
    ]
    return max(found, key=lambda each: len(each.root.parts), default=None)


@contextlib.contextmanager
def hold(
    folder: str | Path,
    outputs: Outputs,
    inputs: Mapping[str, str | Path | None] | None = None,
    *,
    parts: Sequence[str] = ("",),
    name: str = "output_dir",
) -> Iterator[OutputFolder]:
    """Check a folder as `check_outputs` does, lock it, sweep what a killed process left in it.

    The lock ends with the process, however that ends. Holders of different `parts` do not meet.
    Where the file system has no locks, a warning says so.

    Raises:
        InputError: as `check_outputs`, or another process is at work there, or is about to be.
    """
    refuse_several()
    root = Path(folder).expanduser().resolve()
    check_outputs(root, outputs, inputs, name)  # before anything is written
    record, is_new = root / OWN / _RECORD, not root.exists()
    try:
        with contextlib.ExitStack() as locks:
            for part in parts:
                locks.enter_context(_locked(root, part, f"{name} {str(folder)!r}"))
            check_outputs(root, outputs, inputs, name)
            held = OutputFolder(root, root / OWN / f"tmp{parts[0]}", _read_made(root))
            if not record.exists():
                held.note(held.made)
            for part in parts:
                _sweep(root, root / OWN / f"tmp{part}")
            _held.append(held)
            try:
                yield held
            finally:
                _held.remove(held)
                for part in parts:
                    _sweep(root, root / OWN / f"tmp{part}")
                if not held.made and record.stat().st_size == 0:  # there is nothing to know
                    record.unlink()
    finally:
        with contextlib.suppress(OSError):  # something was made
            record.parent.rmdir()
            if is_new:
                root.rmdir()


@contextlib.contextmanager
def lent(root: Path) -> Iterator[None]:
    """Write in a folder that the process which started this one holds, and only waits meanwhile."""
    held = OutputFolder(root, root / OWN / "tmp", _read_made(root))
    _held.append(held)
    try:
        yield
    finally:
        _held.remove(held)


def check_outputs(
    folder: str | Path,
    outputs: Outputs,
    inputs: Mapping[str, str | Path | None] | None = None,
    name: str = "output_dir",
) -> None:
    """Refuse to replace what a user put in a folder, or to read what will be replaced.

    Raises:
        InputError: something not on the folder's record lies where an output goes, an output
            would leave the folder, or an input (by its field) lies in one.
    """
    root = Path(folder).expanduser().resolve()
    if root.exists() and not root.is_dir():
        raise InputError(f"{name} {str(root)!r}: is not a folder. Give another one.")
    made = _read_made(root)
    places = [*outputs.files, *outputs.trees]
    foreign = [each for place in places for each in _foreign(root, place, made)]
    foreign += [each for place in outputs.folders for each in _in_the_way(root, f"{place}/x")]
    if foreign:
        # What another command has just made was on record before it was there.
        made = _read_made(root)
        foreign = [each for each in dict.fromkeys(foreign) if each not in made]
    if foreign:
        raise _refusal(root, foreign, name)
    for place in [*places, *outputs.folders]:
        check_inputs(root / place, inputs or {})


def check_inputs(target: Path, inputs: Mapping[str, str | Path | None]) -> None:
    """Refuse an input, by its field, that is or lies in what will be replaced.

    Raises:
        InputError: there is one.
    """
    place = target.expanduser().resolve()
    for asked, value in inputs.items():
        if value is None or not os.path.exists(source := Path(value).expanduser()):
            continue
        if place in {source.resolve(), *source.resolve().parents}:
            raise InputError(
                f"{asked} {str(value)!r}: lies where {str(target)!r} is to be written, which would "
                "replace it. Give another folder for one of them."
            )


def check_out(
    out: Path,
    overwrite: bool,
    inputs: Mapping[str, str | Path | None] | None = None,
    *,
    is_folder: bool = False,
) -> None:
    """Refuse to write where something is already, unless asked to; an input is never replaced.

    Raises:
        InputError: as said, or a folder lies where a file goes.
    """
    check_inputs(out, inputs or {})
    if out.is_dir() and not is_folder:
        raise InputError(f"out: {str(out)!r} is a folder. Give a file.")
    is_empty = out.is_dir() and not any(out.iterdir())
    if os.path.lexists(out) and not is_empty and not overwrite:
        raise InputError(
            f"out: {str(out)!r} exists. Give another name, or --overwrite to replace it."
        )


def check_new_folder(out: Path) -> None:
    """Raise `InputError` where something is already; an empty folder may be."""
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"out: {str(out)!r} exists and is not empty. Give a new folder.")


def remove_made(folder: str | Path) -> None:
    """Remove from a folder what its record says was made there; with nothing else, itself too."""
    root = Path(folder).expanduser().resolve()
    if not root.is_dir():
        return
    made = _read_made(root)
    for each in sorted(made):
        if not _in_the_way(root, each):
            (root / each).unlink(missing_ok=True)
    for place in sorted({root / p for each in made for p in Path(each).parents}, reverse=True):
        with contextlib.suppress(OSError):  # holds something else
            place.rmdir()
    shutil.rmtree(root / OWN, ignore_errors=True)  # last: until then it says what is left to do
    with contextlib.suppress(OSError):
        root.rmdir()


def files_below(folder: Path) -> list[str]:
    """All files and links below a folder, relative to it."""
    found = []
    for place, folders, files in os.walk(folder):  # no fault of its own where something just went
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        found += [Path(place) / name for name in (*files, *links)]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _in_the_way(root: Path, name: str) -> list[str]:
    """What keeps a name from being a path below the root, folder by folder."""
    if ".." in Path(name).parts or Path(name).is_absolute():
        return [name]
    parents = [root / parent for parent in Path(name).parents][:-1]
    wrong = [p for p in parents if os.path.lexists(p) and (p.is_symlink() or not p.is_dir())]
    return [path.relative_to(root).as_posix() for path in wrong[-1:]]


def _foreign(root: Path, name: str, made: set[str]) -> list[str]:
    """What lies in the way of an output and is not on record."""
    if found := _in_the_way(root, name):
        return found
    target = root / name
    if target.is_dir() and not target.is_symlink():
        return [f"{name}/{each}" for each in files_below(target) if f"{name}/{each}" not in made]
    return [name] if os.path.lexists(target) and name not in made else []


def _refusal(root: Path, foreign: Sequence[str], name: str = "output_dir") -> InputError:
    some = ", ".join(repr(each) for each in foreign[:3])
    more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
    return InputError(
        f"{name} {str(root)!r}: {some}{more} would be replaced, or lead out of the folder, and by "
        "its record riskalign did not make it there. Move it away, or give another folder."
    )


def _read_made(root: Path) -> set[str]:
    record = root / OWN / _RECORD
    if not record.is_file():
        return set(_made_before(root))
    found = set()
    for line in record.read_text(encoding="utf-8", errors="replace").split("\n"):
        with contextlib.suppress(ValueError):  # cut off by a kill, before the file was written
            found.add(str(from_json(line)))
    return found


def _made_before(root: Path) -> Iterator[str]:
    """What versions without a record left: what their own files say that they are."""
    ledger = _json(root / "finished.json")
    entries = [entry for entry in ledger.values() if isinstance(entry, dict) and "key" in entry]
    if entries:
        yield "finished.json"
    for entry in entries:
        yield from entry.get("outcome", {}).get("files", {})
    for name, beside in (
        ("manifest.json", ["config.yaml"]),
        ("compare.json", ["compare.html"]),
        ("evaluate.json", ["evaluate.html"]),
        ("judge.json", ["verdicts.jsonl"]),
        *((f"cells/{path.name}", []) for path in root.glob("cells/*.json")),
    ):
        content = _json(root / name)
        if "schema" in content and content.keys() & {"versions", "riskalign_version"}:
            yield from (name, *beside)
    if {"key", "text", "usage"} <= _json(root / "replies.jsonl", first_line=True).keys():
        yield "replies.jsonl"


def from_json(text: str | bytes) -> Any:
    """What a JSON text says; `ValueError` for whatever is wrong with it, endless nesting too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _json(path: Path, first_line: bool = False) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as stream:
            found = from_json(stream.readline() if first_line else stream.read())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sweep(root: Path, tmp: Path) -> None:
    """Remove what a killed process had under way; a folder that had stepped aside comes back."""
    for aside in tmp.glob("aside/*"):
        target = root / unquote(aside.name)
        if not os.path.lexists(target):
            aside.replace(target)
    shutil.rmtree(tmp, ignore_errors=True)


@contextlib.contextmanager
def _locked(root: Path, part: str, where: str) -> Iterator[None]:
    path = root / OWN / f"lock{part}"
    with contextlib.ExitStack() as stack:
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                stream = stack.enter_context(path.open("a+", encoding="utf-8"))
            except OSError as error:
                raise InputError(
                    f"{where}: cannot be written ({error.strerror}). Give another folder."
                ) from error
            if not _lock(stream, where):
                stream.seek(0)
                raise InputError(f"{where}: {_holder(stream.read())}. Wait for its end.")
            if os.fstat(stream.fileno()).st_nlink:
                break  # else its holder ended, and removed it, after we had opened it
        about = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        stream.seek(0)
        stream.truncate()
        stream.write(json.dumps(about) + "\n")
        stream.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _lock(stream: IO[str], where: str) -> bool:
    """Whether the lock is ours now; without locks on this system it is, and a warning is given."""
    why = "this system has no file locks"
    if sys.platform != "win32":
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            why = f"its file system has no locks ({error.strerror})"
    warnings.warn(
        f"{where}: {why}, so nothing keeps a second job out. Do not start one there.",
        RuntimeWarning,
        stacklevel=2,
    )
    return True


def _holder(text: str) -> str:
    try:
        about = from_json(text)
        who = f"process {about['pid']} on {about['host']}, since {about['started']}"
    except (ValueError, KeyError, TypeError):
        who = "a process that just began"
    return f"another command is at work there: {who}"
