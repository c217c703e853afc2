"""Workers forked in place of `accelerate launch`, which imports for half a minute at each start.

What accelerate and torchrun do is done alike: an environment for each worker, a pipe to all of them
as their standard input, sessions of their own, and the end of all where one fails.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from accelerate.state import AcceleratorState  # type: ignore[import-untyped]

from riskalign.pipeline import conduct, worker


class Forked:
    """A launcher like the `subprocess.Popen` of one, started by a fork of this process."""

    def __init__(self, command: list[str], log: IO[bytes]) -> None:
        self.returncode: int | None = None
        n, folder = int(command[command.index("--num_processes") + 1]), Path(command[-1])
        read, write = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            os.close(write)
            os.dup2(read, 0)
            for to in (1, 2):
                os.dup2(log.fileno(), to)
            os._exit(_launch(folder, n))
        os.close(read)
        self.stdin = os.fdopen(write, "wb", buffering=0)

    def poll(self) -> int | None:
        """The exit code, or minus the signal, once it has ended."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def terminate(self) -> None:
        """Ask it to end."""
        os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code."""
        while self.poll() is None:
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode


@contextlib.contextmanager
def forked() -> Iterator[None]:
    """Start workers by forks."""
    before = conduct.start
    conduct.start = Forked  # type: ignore[assignment]
    try:
        yield
    finally:
        conduct.start = before


def _launch(folder: Path, n: int) -> int:
    """What the launcher does: start workers, wait for them, end all where one fails."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    pids = []
    for rank in range(n):
        pid = os.fork()
        if not pid:
            os._exit(_work(folder, rank, n, port))
        pids.append(pid)
    (folder / "pids.new").write_text(" ".join(map(str, pids)))
    (folder / "pids.new").replace(folder / "pids")
    while pids:
        pid, status = os.wait()
        pids.remove(pid)
        if status:
            for other in pids:
                os.kill(other, signal.SIGKILL)
            return 1
    return 0


def _work(folder: Path, rank: int, n: int, port: int) -> int:
    os.setsid()
    places: dict[str, Any] = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": n,
        "LOCAL_WORLD_SIZE": n,
    }
    places |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        worker.watch()
        worker.serve(folder)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
