"""`manifest.json`: what ran, with which settings, seeds, versions and data, on what, how long."""

import dataclasses
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from riskalign.files.atomic import write_text
from riskalign.pipeline import machine
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.ledger import content_hash
from riskalign.pipeline.methods import KINDS


def resolve(config: AlignConfig) -> dict[str, Any]:
    """The configuration as plain data with nothing left to derive."""
    tree = dataclasses.asdict(config)
    for kind in KINDS:
        tree[kind]["beta"] = config.step_beta(kind)
        tree[kind]["sampling"] = dataclasses.asdict(config.step_sampling(kind))
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
