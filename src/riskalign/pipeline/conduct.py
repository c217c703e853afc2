"""Runs a job's workers: started by accelerate, watched, ended with the job, heard when they fail.

All lies in one folder of the job's: `log.txt`, what the workers say, and for each request a folder
`0`, `1` and so on, with `request.json`; of each worker `progress-RANK.json`, and `done-RANK.json`
or `error-RANK.json` at its end; and what a request brings and leaves.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from riskalign.errors import InputError, TrainingDiverged, WorkerFailed
from riskalign.files.atomic import scratch, write_text
from riskalign.files.folder import from_json
from riskalign.pipeline import machine
from riskalign.pipeline.launch import Launch
from riskalign.pipeline.progress import Update

#: Set for workers whose standard input is a pipe from the job.
WATCHED = "RISKALIGN_WATCHED"
#: What workers are asked when nothing more will come.
END = "end"
_PATIENCE = 20.0  # seconds between asking workers to end and ending them
_LINES = 20
#: What a worker may raise on purpose, and the job then raises in its place.
RAISED = {each.__name__: each for each in (TrainingDiverged, InputError)}


class Workers:
    """A job's workers: started when they are first asked, and there until `end`."""

    def __init__(self, launch: Launch, root: Path) -> None:
        self.launch, self._root = launch, root
        self._stack = contextlib.ExitStack()
        self._child: subprocess.Popen[bytes] | None = None
        self._asked = 0
        #: The most memory that one of them took for the last request, in MiB.
        self.peak = 0.0

    @contextlib.contextmanager
    def place(self) -> Iterator[Path]:
        """A folder for what the next request brings and leaves; gone at the end."""
        if self._child is None:
            self._folder = self._stack.enter_context(scratch(self._root / "workers")).resolve()
            self._asked = 0
            machine.release_memory()  # of what was sampled or judged here
            for line in self.launch.elsewhere(self._folder):
                print(line, file=sys.stderr, flush=True)
            log = self._stack.enter_context((self._folder / "log.txt").open("wb"))
            self._child = start(self.launch.command(self._folder), log)
            self._stack.callback(_end, self._child)
        place = self._folder / str(self._asked)
        place.mkdir()
        self._asked += 1
        yield place
        shutil.rmtree(place, ignore_errors=True)

    def ask(self, request: Mapping[str, Any], place: Path, update: Update, what: str) -> None:
        """Have a request done; what the workers leave is in its place.

        Raises what a worker raises of `RAISED`, and `WorkerFailed` where one ends otherwise.
        """
        child, n = self._child, self.launch.processes
        assert child is not None
        about = {"cwd": os.getcwd(), "path": [*map(str, sys.path)], "processes": n, **request}
        write_text(place / "request.json", json.dumps(about))
        failed: float | None = None  # when one said so
        while len(list(place.glob("done-*.json"))) < n:
            ended = child.poll() is not None
            _tell(place, update)
            if failed is None and any(place.glob("error-*.json")):
                failed = time.monotonic()
            # The launcher here knows nothing of workers that another machine's started.
            if ended or (failed is not None and time.monotonic() > failed + _PATIENCE):
                found = _failure(self._folder, place, n, child.returncode, what)
                self.stop()
                raise found
            time.sleep(0.02)
        _tell(place, update)
        self.peak = max(_read(path).get("peak", 0.0) for path in place.glob("done-*.json"))

    def end(self) -> None:
        """End the workers, if there are any; the next request starts others."""
        if (child := self._child) is None:
            return
        place = self._folder / str(self._asked)
        place.mkdir()
        write_text(place / "request.json", json.dumps({"work": END}))
        until = time.monotonic() + _PATIENCE
        while child.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        self.stop()

    def stop(self) -> None:
        """End the workers whatever they do, and wait until they have."""
        self._child = None
        self._stack.close()


def start(command: list[str], log: Any) -> "subprocess.Popen[bytes]":
    """Start a launcher whose workers read from a pipe, and so notice when this process ends."""
    environment = {**os.environ, WATCHED: "1"}
    if not {"", os.getcwd()} & set(sys.path):
        # Beside a user's data may lie any `datasets.py`, which `python -m` would import.
        environment["PYTHONSAFEPATH"] = "1"
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


def _failure(folder: Path, place: Path, n: int, code: int | None, what: str) -> Exception:
    """What the first of n workers that says something says, else the end of what all said."""
    said = [_read(path) for path in sorted(place.glob("error-*.json"))]
    for each in said:
        if each and each["type"] in RAISED:
            return RAISED[each["type"]](each["message"])
    heard = {path.stem.rpartition("-")[2] for path in place.glob("[de]*-*.json")}
    silent = [str(rank) for rank in range(n) if f"{rank:05}" not in heard]
    which = f"process {', '.join(silent)} ended without a word" if silent else "a process failed"
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    if said and said[0]:
        lines = said[0]["message"].split("\n")
    tail = "\n  ".join(line for line in lines[-_LINES:] if line.strip())
    ended = "is still there" if code is None else f"ended with {code}"
    if code is not None and code < 0:
        ended = f"was ended by {signal.Signals(-code).name}"
    return WorkerFailed(
        f"{what}: {which}, and the launcher {ended}. The same command goes on from what is "
        f"finished and from the last checkpoint. The last that was said:\n  {tail}"
    )


def _read(path: Path) -> dict[str, Any]:
    """A worker's file, or nothing where it is just being replaced."""
    try:
        found = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
