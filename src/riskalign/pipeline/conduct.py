"""Runs a stage's workers: started by accelerate, watched, ended with the job, heard when they fail.

What passes between the two lies in one folder of the job's: `request.json`; of each worker
`progress-RANK.json` and, where it fails, `error-RANK.json`; what all of them say in `log.txt`.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from riskalign.errors import InputError, LimitKept, TrainingDiverged, WorkerFailed
from riskalign.files.atomic import write_text
from riskalign.files.folder import from_json
from riskalign.pipeline.launch import Launch
from riskalign.pipeline.progress import Update

#: Set for workers whose standard input is a pipe from the job.
WATCHED = "RISKALIGN_WATCHED"
_PATIENCE = 20.0  # seconds between asking workers to end and ending them
_LINES = 20
#: What a worker may raise on purpose, and the job then raises in its place.
RAISED = {each.__name__: each for each in (InputError, LimitKept, TrainingDiverged)}


def conduct(
    launch: Launch, request: Mapping[str, Any], folder: Path, update: Update, what: str
) -> None:
    """Do a request by workers; what they leave is in `folder`, which this process made for them.

    Raises what a worker raises of `RAISED`, and `WorkerFailed` where one ends otherwise.
    """
    about = {"cwd": os.getcwd(), "path": sys.path, "processes": launch.processes, **request}
    write_text(folder / "request.json", json.dumps(about))
    for line in launch.elsewhere(folder):
        print(line, file=sys.stderr, flush=True)
    with (folder / "log.txt").open("wb") as log, _started(launch.command(folder), log) as child:
        while child.poll() is None:
            time.sleep(0.05)
            _tell(folder, update)
    _tell(folder, update)
    if child.returncode:
        raise _failure(folder, child.returncode, what)


@contextlib.contextmanager
def _started(command: list[str], log: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """The launcher, in a session of its own: Ctrl-C reaches this process alone, which ends it."""
    child = start(command, log)
    try:
        yield child
    finally:
        _end(child)


def start(command: list[str], log: Any) -> "subprocess.Popen[bytes]":
    """Start a launcher whose workers read from a pipe, and so notice when this process ends."""
    environment = {**os.environ, WATCHED: "1"}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        bufsize=0,
        env=environment,
        start_new_session=True,
    )


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End a launcher and its workers, whichever are left, and wait until none is."""
    assert child.stdin is not None
    with contextlib.suppress(OSError):  # nobody is left to read
        child.stdin.write(b"end" * 1000)  # each worker takes a byte
    until = time.monotonic() + _PATIENCE
    if child.poll() is None:
        child.terminate()
    while time.monotonic() < until and (child.poll() is None or not _deserted(child.stdin)):
        time.sleep(0.01)
    if child.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        child.stdin.close()
    child.wait()


def _deserted(pipe: Any) -> bool:
    """Whether no process has the pipe's other end any more; where that cannot be told, yes."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(pipe, select.POLLERR)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _tell(folder: Path, update: Update) -> None:
    """Add up how far the workers are."""
    told = [_read(path) for path in sorted(folder.glob("progress-*.json"))]
    told = [each for each in told if each]
    if told:
        update(sum(each["n"] for each in told), max(each["of"] for each in told), told[0]["note"])


def _failure(folder: Path, code: int, what: str) -> Exception:
    """What the first worker that says something says, else the end of what all of them said."""
    said = [_read(path) for path in sorted(folder.glob("error-*.json"))]
    for each in said:
        if each and each["type"] in RAISED:
            return RAISED[each["type"]](each["message"])
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    if said and said[0]:
        lines = said[0]["message"].split("\n")
    tail = "\n  ".join(line for line in lines[-_LINES:] if line.strip())
    ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    return WorkerFailed(
        f"{what}: a process of it failed, and the launcher {ended}. The same command goes on from "
        f"what is finished and from the last checkpoint. The last that was said:\n  {tail}"
    )


def _read(path: Path) -> dict[str, Any]:
    """A worker's file, or nothing where it is just being replaced."""
    try:
        found = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
