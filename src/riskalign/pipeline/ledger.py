"""Which stages are finished, so that a job run again does only what is missing or changed."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from riskalign import __version__
from riskalign.atomic import write_text
from riskalign.cache import file_sha256

Outcome = dict[str, Any]


def content_hash(value: Any) -> str:
    """Hex SHA-256 of a value of JSON's types; the same for the same content."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Ledger:
    """The file `finished.json` in a job's folder: each finished stage, from what, with what result.

    A stage counts as finished when it was made by the same version of riskalign from the same
    inputs (settings, seeds and hashes of what came before) and its files are still as it left
    them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "finished.json"
        self._stages: dict[str, Any] = {}
        if self._path.is_file():
            try:
                read = json.loads(self._path.read_text(encoding="utf-8"))
            except ValueError:
                # Not written by `write_text`, so nothing in it can be relied on.
                read = {}
            self._stages = read if isinstance(read, dict) else {}

    def key(self, inputs: Mapping[str, Any]) -> str:
        """Names a stage's inputs."""
        return content_hash({"riskalign_version": __version__, **inputs})

    def find(self, stage: str, key: str) -> Outcome | None:
        """The outcome of a stage that is finished for these inputs and intact, else None."""
        entry = self._stages.get(stage)
        if not isinstance(entry, dict) or entry.get("key") != key:
            return None
        outcome: Outcome = entry["outcome"]
        intact = all(
            (self.folder / name).is_file() and file_sha256(self.folder / name) == sha256
            for name, sha256 in outcome.get("files", {}).items()
        )
        return outcome if intact else None

    def run(self, stage: str, key: str, work: Callable[[], Outcome]) -> Outcome:
        """Do the work and note its outcome, with its seconds and the hashes of its files.

        `work` returns an outcome of JSON's types in which `files`, if present, lists paths
        relative to the folder.
        """
        start = time.monotonic()
        outcome = work()
        outcome["files"] = {
            name: file_sha256(self.folder / name) for name in outcome.get("files", [])
        }
        outcome["seconds"] = round(time.monotonic() - start, 3)
        self._stages[stage] = {"key": key, "outcome": outcome}
        write_text(self._path, json.dumps(self._stages, indent=1, ensure_ascii=False) + "\n")
        return outcome

    def files_in(self, subfolder: Path) -> list[str]:
        """All files below a folder, as paths relative to the job's."""
        found = sorted(path for path in subfolder.rglob("*") if path.is_file())
        return [path.relative_to(self.folder).as_posix() for path in found]
