"""What the job makes of what its workers leave."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from riskalign.errors import TrainingDiverged, WorkerFailed
from riskalign.pipeline import conduct
from riskalign.pipeline.launch import LaunchConfig


class Alive:
    """A launcher that sees no worker fail, as where another machine started that one."""

    returncode = None

    def poll(self) -> None:
        """Nothing: it goes on."""


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [("TrainingDiverged", TrainingDiverged, "it says"), ("", WorkerFailed, "is still there")],
)
def test_a_worker_that_fails_is_heard_though_the_launcher_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, error: Any, words: str
) -> None:
    monkeypatch.setattr(conduct, "start", lambda *_: Alive())
    monkeypatch.setattr(conduct, "_end", lambda _: None)
    monkeypatch.setattr(conduct, "_PATIENCE", 0.1)
    workers = conduct.Workers(LaunchConfig(processes=2).resolved(), tmp_path)

    def update(*_: Any) -> None:
        assert time.monotonic() < until, "it waits for ever"

    until = time.monotonic() + 30
    with workers.place() as place:
        told = {"n": 1, "of": 2, "note": ""}
        (place / "progress-00001.json").write_text(json.dumps(told))
        (place / "done-00000.json").write_text("{}")
        (place / "error-00001.json").write_text(json.dumps({"type": kind, "message": "it says"}))
        with pytest.raises(error, match=words):
            workers.ask({"work": "draw"}, place, update, "launch: draw")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python knows no safe path")
@pytest.mark.parametrize("own", [True, False])
def test_workers_import_from_the_working_directory_where_the_job_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shadow.py").write_text("print('found')")
    rest = [each for each in sys.path if each not in ("", os.getcwd())]
    monkeypatch.setattr(sys, "path", ["", *rest] if own else rest)
    with (tmp_path / "log").open("wb") as log:
        child = conduct.start([sys.executable, "-m", "shadow"], log)
        child.wait()
    assert child.stdin is not None
    child.stdin.close()
    assert ("found" in (tmp_path / "log").read_text()) == own
