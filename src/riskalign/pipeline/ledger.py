"""Which stages are finished, so that a job run again does only what is missing or changed."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from riskalign import __version__
from riskalign.files.atomic import link_or_copy, write_text
from riskalign.files.cache import file_sha256
from riskalign.files.folder import files_below, from_json
from riskalign.pipeline.machine import peak_memory, reset_peak_memory
from riskalign.pipeline.sources import code_of

Outcome = dict[str, Any]


def content_hash(value: Any) -> str:
    """Hex SHA-256 of a value of JSON's types; the same for the same content."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Ledger:
    """The file `finished.json` in a job's folder: each finished stage, from what, with what result.

    A stage counts as finished when it was made by the same code (`sources`) from the same inputs
    (settings, seeds and hashes of what came before) and its files are still as it left them. What
    jobs in the folders `siblings` have finished from the same inputs is taken over.
    """

    def __init__(self, folder: Path, siblings: Sequence[Path] = ()) -> None:
        self.folder = folder
        self._siblings = siblings
        self._stages = _read(folder)

    def key(self, stage: str, inputs: Mapping[str, Any]) -> str:
        """Names what a stage is made from: its inputs, and the code that it computes with."""
        code = {"riskalign_version": __version__, "code": code_of(stage)}
        return content_hash({"stage": stage, **code, **inputs})

    def find(self, stage: str, key: str) -> Outcome | None:
        """The outcome of a stage that is finished for these inputs and intact, else None."""
        if (outcome := _finished(self.folder, self._stages, stage, key)) is not None:
            return outcome
        for sibling in self._siblings:
            if (outcome := _finished(sibling, _read(sibling), stage, key)) is not None:
                for name in outcome.get("files", {}):
                    link_or_copy(sibling / name, self.folder / name)
                self._note(stage, key, outcome)
                return outcome
        return None

    def has(self, stage: str) -> bool:
        """Whether a stage is finished here or in a sibling, from whatever inputs."""
        return stage in self._stages or any(stage in _read(other) for other in self._siblings)

    def run(self, stage: str, key: str, work: Callable[[], Outcome]) -> Outcome:
        """Do the work and note its outcome, with its seconds and the hashes of its files.

        `work` returns an outcome of JSON's types in which `files`, if present, lists the files and
        folders that it made: paths, or text relative to the folder.
        """
        start = time.monotonic()
        reset_peak_memory()
        outcome = work()
        made = [
            path if isinstance(path, Path) else self.folder / path
            for path in outcome.get("files", [])
        ]
        outcome["files"] = {
            path.relative_to(self.folder).as_posix(): file_sha256(path)
            for each in made
            for path in ([each / name for name in files_below(each)] if each.is_dir() else [each])
        }
        outcome["seconds"] = round(time.monotonic() - start, 3)
        outcome["peak_megabytes"] = peak_memory()
        self._note(stage, key, outcome)
        return outcome

    def _note(self, stage: str, key: str, outcome: Outcome) -> None:
        self._stages[stage] = {"key": key, "outcome": outcome}
        text = json.dumps(self._stages, indent=1, ensure_ascii=False)
        write_text(self.folder / "finished.json", text + "\n")


def _read(folder: Path) -> dict[str, Any]:
    try:
        read = from_json((folder / "finished.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        # None, or not written by `write_text`, so that nothing in it can be relied on.
        return {}
    return read if isinstance(read, dict) else {}


def _finished(folder: Path, stages: Mapping[str, Any], stage: str, key: str) -> Outcome | None:
    entry = stages.get(stage)
    if not isinstance(entry, dict) or entry.get("key") != key:
        return None
    outcome: Outcome = entry["outcome"]
    intact = all(
        (folder / name).is_file() and file_sha256(folder / name) == sha256
        for name, sha256 in outcome.get("files", {}).items()
    )
    return outcome if intact else None
