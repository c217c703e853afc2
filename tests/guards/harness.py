"""One malformed input: how it is made, the command that meets it, and what must be said."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from transformers.models.llama.modeling_llama import LlamaModel

from riskalign.cli import main

WORLD = "--world=tests.pipeline.conftest:Letters"
#: Seconds; against a hang, which the corpus must not have: no case takes them on any machine.
_HANGS_AFTER = 1800

Make = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A command with `{here}`, `{sound}`, `{kit}` and `{out}` for folders, and what it must name."""

    name: str
    command: tuple[str, ...]
    names: tuple[str, ...]
    make: Make = field(default=lambda here: None)
    #: The command may also do what was lost anew, and end well.
    heals: bool = False


def case(
    name: str, command: str, names: str, make: Make | None = None, heals: bool = False
) -> Case:
    """A case whose command's words and names are parted by spaces."""
    words = tuple(command.split())
    return Case(name, words, tuple(names.split()), make or (lambda here: None), heals)


@dataclass(frozen=True)
class End:
    """How a command ended: exit code, or the exception that reached the top; what it printed."""

    code: int | None
    raised: str
    said: str


class WorkBegan(BaseException):
    """A model was asked to compute, before what is wrong was found."""


def _began(*_: object, **__: object) -> None:
    raise WorkBegan


@contextlib.contextmanager
def _no_hang() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_HANGS_AFTER)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(*arguments: str, work: bool = False) -> End:
    """`riskalign *arguments` in this process, where models must not compute unless `work`."""
    said, argv, cwd, forward = io.StringIO(), sys.argv, os.getcwd(), LlamaModel.forward
    if not work:
        LlamaModel.forward = _began  # type: ignore[method-assign]
    sys.argv = ["riskalign", *arguments]
    try:
        with (
            _no_hang(),
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            main()
    except SystemExit as end:
        return End(end.code if isinstance(end.code, int) else 0, "", said.getvalue())
    except BaseException as error:  # whatever it is, it is what the case is there to find
        return End(None, f"{type(error).__name__}: {error}", said.getvalue())
    finally:
        sys.argv = argv
        LlamaModel.forward = forward  # type: ignore[method-assign]
        os.chdir(cwd)
    return End(0, "", said.getvalue())


def snapshot(folder: Path) -> dict[str, int]:
    """What lies in a folder, with the times of its files; without what Python keeps of modules."""
    return {
        str(path): path.lstat().st_mtime_ns
        for path in folder.rglob("*")
        if (not path.is_dir() or path.is_symlink()) and path.parent.name != "__pycache__"
    }


def _is_good(here: Path, kit: Path, file: str) -> bool:
    """Whether a file of a run is as in the kit's; of one that says when, that it has the stages."""
    made, sound = (root / file for root in (here, kit))
    if file.endswith("manifest.json"):
        return set(json.loads(made.read_text())["stages"]) == set(
            json.loads(sound.read_text())["stages"]
        )
    if file.endswith("finished.json"):
        return set(json.loads(made.read_text())) >= set(json.loads(sound.read_text()))
    return made.read_bytes() == sound.read_bytes()


def faults(case: Case, here: Path, kit: Path) -> list[str]:
    """What is wrong with how a case ends; nothing where it ends as it must."""
    here.mkdir(parents=True, exist_ok=True)
    case.make(here)
    places = {"here": here, "kit": kit, "sound": kit / "sound", "out": here / "out"}
    arguments = [word.format(**places) if "{" in word else word for word in case.command]
    os.chdir(here)
    before = snapshot(here)
    end = run(*arguments, work=case.heals)
    if case.heals and end.code == 0:
        return [f"not made good: {file}" for file in case.names if not _is_good(here, kit, file)]
    if end.raised:
        return [f"traceback: {end.raised}"]
    found = [] if end.code == 2 else [f"exit code {end.code}"]
    lines = [line for line in end.said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error ")]
    if len(errors) != 1:
        found.append(f"{len(errors)} lines of error: {end.said[-400:]!r}")
    found += [f"{name!r} is not named: {errors}" for name in case.names if name not in end.said]
    if snapshot(here) != before:
        left = {path for path, _ in snapshot(here).items() ^ before.items()}
        found.append(f"left behind: {sorted(left)[:4]}")
    return found
