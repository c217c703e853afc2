"""A job's two records: which stages are finished, and the manifest of what ran with what."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from riskalign import __version__
from riskalign.files.atomic import link_or_copy, write_text
from riskalign.files.cache import file_sha256
from riskalign.files.folder import files_below, from_json
from riskalign.pipeline import machine
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.methods import KINDS
from riskalign.pipeline.progress import Progress, Update, updates
from riskalign.pipeline.sources import code_of

Outcome = dict[str, Any]
Work = Callable[[str, Update], Outcome]  # from a stage's key and a way to tell how far it is


def content_hash(value: Any) -> str:
    """Hex SHA-256 of a value of JSON's types; the same for the same content."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def rows_hash(rows: Iterable[Any]) -> str:
    """`content_hash` of rows as a list, which need not all be in memory."""
    digest, before = hashlib.sha256(b"["), ""
    for row in rows:
        digest.update(f"{before}{_canonical(row)}".encode())
        before = ","
    digest.update(b"]")
    return digest.hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


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

    def stage(
        self, name: str, inputs: Mapping[str, Any], progress: Progress, work: Work
    ) -> tuple[str, bool, Outcome]:
        """A stage's key, whether it was finished before, and its outcome, found or made."""
        key = self.key(name, inputs)
        progress.stage(name)
        if (outcome := self.find(name, key)) is not None:
            progress.done("done before")
            return key, True, outcome
        outcome = self.run(name, key, lambda: work(key, updates(progress)))
        progress.done()
        return key, False, outcome

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
        machine.reset_peak_memory()
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
        outcome["peak_megabytes"] = machine.peak_memory()
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


def resolve(config: AlignConfig) -> dict[str, Any]:
    """The configuration as plain data with nothing left to derive."""
    tree = dataclasses.asdict(config)
    for kind in KINDS:
        tree[kind]["beta"] = config.step_beta(kind)
        tree[kind]["sampling"] = dataclasses.asdict(config.step_sampling(kind))
    if tree["budget"] is None:
        del tree["budget"]
    if tree["evaluation"] is not None and not tree["evaluation"]["metrics"]:
        del tree["evaluation"]["metrics"]  # as in a job of before there were any
    plain: dict[str, Any] = json.loads(json.dumps(tree))  # tuples become lists, as YAML reads them
    return plain


def readable(config: AlignConfig) -> dict[str, Any]:
    """As `resolve`, but for what a limit decides during the job: `load_config` reads it back."""
    tree = resolve(config)
    for kind in KINDS:
        if tree[kind]["limit"] is not None:
            tree[kind]["beta"] = None
    return tree


def stage_seed(config: AlignConfig, stage: str) -> int:
    """A seed of its own for each stage, so that a stage skipped shifts no other's."""
    return int(content_hash([config.seed, stage])[:8], 16) % 2**31


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Manifest:
    """The manifest of one job; every change is on disk at once."""

    def __init__(self, folder: Path, config: AlignConfig, command: str) -> None:
        self.path = folder / "manifest.json"
        settings = readable(config)
        self.content: dict[str, Any] = {
            "schema": 1,
            "status": "running",
            "started": now(),
            "command": command,
            "config": settings,
            "seeds": {"job": config.seed},
            "versions": machine.versions(),
            "commit": machine.commit(),
            "machine": machine.describe(),
            **{group: {} for group in ("models", "data", "stages")},
        }
        write_text(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
        self.write()

    def note(self, group: str, name: str, value: Any) -> None:
        """Set one entry of `models`, `data`, `seeds` or `stages`."""
        self.content[group][name] = value
        self.write()

    def end(self, status: str, error: str | None = None) -> None:
        """Set how the job ended: `finished`, `failed` or `interrupted`."""
        self.content |= {"status": status, "ended": now()}
        if error is not None:
            self.content["error"] = error
        self.write()

    def write(self) -> None:
        """Replace the file."""
        write_text(self.path, json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")
