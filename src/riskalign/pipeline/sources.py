"""The code that a stage computes with, as hashes: what other code made is not "done before"."""

import ast
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import riskalign

#: The package's own folder, whose rooms (folders, or single files) are hashed.
ROOT = Path(riskalign.__file__).parent

_LEARN = ("data", "losses", "models", "risk", "tokens", "training")
_WORKERS = ("pipeline/launched.py", "pipeline/worker.py")
_TRAIN = (*_LEARN, *_WORKERS, "pipeline/steps.py", "pipeline/fit.py", "pipeline/machine.py")
_ASKED = ("data", "worlds", "models", "risk", "scorers")
_WORLD = (*_ASKED, "pipeline/judged.py", "pipeline/machine.py")
_MEASURE = (*_WORKERS, "pipeline/measure.py", "pipeline/parts.py")
_SCORE = ("evaluation/score.py", "tokens")
_SETS = ("pipeline/sets/run.py", "pipeline/machine.py", "data", "models")

#: What each kind of stage computes with. Rooms that only check, ask, tell or draw are left out.
ROOMS: Mapping[str, tuple[str, ...]] = {
    "pairs": (*_WORLD, *_WORKERS, "pipeline/parts.py", "pipeline/step_data.py", "pipeline/tail.py"),
    "train": _TRAIN,
    "train-sft": (*_TRAIN, "pipeline/sft.py"),
    "train-ppo": (*_TRAIN, "safe_rlhf", "scorers", "worlds", "pipeline/rlhf.py"),
    "scorer": (*_TRAIN, "scorers", "pipeline/rlhf.py"),
    "judge": (*_LEARN, "scorers", "pipeline/judged.py"),
    "label": (*_LEARN, "scorers", "pipeline/judged.py"),
    "accuracy": (*_TRAIN, "pipeline/held_out.py"),
    "model": (),
    "evaluate": (*_WORLD, *_SCORE, *_MEASURE),
    "calibrate": (*_WORLD, *_SCORE, *_MEASURE),
    "certificate": ("evaluation/bounds.py", "evaluation/certify.py", "pipeline/certify.py"),
    "rare": (*_WORLD, *_SCORE, "evaluation/dial_scores.py", "pipeline/rare.py"),
    "report": ("evaluation", "pipeline/evaluate.py", "pipeline/measure.py"),
    "answers": (*_SETS, "worlds", "evaluation/sets"),
    "drift": (*_SETS, *_SCORE, "risk"),
    "scores": (*_SETS, "scorers", "evaluation/sets", "pipeline/judged.py"),
    "r_judge": (*_SETS, "evaluation/sets", "tokens"),
}


def code_of(stage: str) -> dict[str, str]:
    """The hashes of the rooms that a stage computes with, by its name such as `train-safe-2`.

    Raises:
        KeyError: no kind of stage in `ROOMS` begins the name, less a set's as in `prompts · `.
    """
    name = re.sub(r"^\w+ · ", "", stage)
    kind = max((k for k in ROOMS if f"{name}-".startswith(f"{k}-")), key=len, default=name)
    found = _all()
    return {room: found[room] for room in ROOMS[kind]}


def others(code: Mapping[str, str]) -> list[str]:
    """The rooms of `code`, hashes of then, that have another one now, or are gone."""
    found = _all()
    return [room for room, then in code.items() if found.get(room) != then]


@functools.cache
def _all() -> dict[str, str]:
    """Hashes of all rooms, taken at once when the first stage asks: what is edited while a job runs
    is not what it computes with."""
    rooms = dict.fromkeys(room for own in ROOMS.values() for room in own)
    return {room: room_hash(ROOT / room) for room in rooms}


def room_hash(room: Path) -> str:
    """Hex SHA-256 of a file, or of all files below a folder with their names."""
    names = {path.relative_to(room.parent).as_posix(): source_hash(path) for path in _files(room)}
    return hashlib.sha256(json.dumps(sorted(names.items())).encode()).hexdigest()


def _files(room: Path) -> Iterator[Path]:
    below = [room] if room.is_file() else room.rglob("*")
    yield from (path for path in below if path.is_file() and "__pycache__" not in path.parts)


def source_hash(path: Path) -> str:
    """Hex SHA-256 of what a file says to a computer.

    Comments, docstrings and layout do not count in Python and C. Python's is the same under every
    version that reads the same tree in the file. Other files count as they are.
    """
    return _hash(path.read_bytes(), path.suffix)


@functools.lru_cache(maxsize=1024)
def _hash(content: bytes, suffix: str) -> str:
    if suffix == ".py":
        content = json.dumps(_plain(ast.parse(content))).encode()
    elif suffix == ".c":
        content = _without_comments(content.decode()).encode()
    return hashlib.sha256(content).hexdigest()


def _plain(node: Any) -> Any:
    """A syntax tree as lists; fields without content, which versions of Python add, left out."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        fields["body"] = node.body[1:] if ast.get_docstring(node) is not None else node.body
    filled = {name: value for name, value in fields.items() if value not in (None, [])}
    return [type(node).__name__, {name: _plain(value) for name, value in filled.items()}]


_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|/\*.*?\*/|//[^\n]*', flags=re.DOTALL)


def _without_comments(text: str) -> str:
    """C without comments, runs of spaces and empty lines."""
    kept = _TOKEN.sub(lambda found: found[0] if found[0].startswith('"') else " ", text)
    return "\n".join(words for line in kept.splitlines() if (words := " ".join(line.split())))
