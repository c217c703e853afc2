"""What ends a command from outside: SIGINT, SIGTERM and SIGHUP, none of them in silence."""

from __future__ import annotations

import _thread
import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_APART = 1.0  # seconds; a terminal that closes may send two
_AGAIN = 0.05


class Stop:
    """Whether a signal has come, and which: `signum`."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._at = -math.inf
        self._pid = os.getpid()

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Interrupt what is going on, as Ctrl-C does."""
        if os.getpid() != self._pid:  # a worker's end is no business of ours
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        if time.monotonic() - self._at < _APART:
            return
        self.signum, self._at = signum, time.monotonic()
        raise KeyboardInterrupt

    def unraisable(self, found: Any) -> bool:
        """Interrupt once more where a destructor swallowed it; whether that was so."""
        if self.signum is None or not isinstance(found.exc_value, KeyboardInterrupt):
            return False
        self._at = -math.inf
        again = threading.Timer(_AGAIN, _thread.interrupt_main, [self.signum])
        again.daemon = True
        again.start()
        return True


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Let signals that would end the process interrupt it; those that are ignored stay so."""
    stop = Stop()
    known: dict[int, Any] = {}
    for name in _NAMES:
        if (signum := getattr(signal, name, None)) is not None:
            before = signal.getsignal(signum)
            if before in (signal.SIG_DFL, signal.default_int_handler):
                known[signum] = before
                signal.signal(signum, stop.handle)
    hook = sys.unraisablehook

    def unraisable(found: Any) -> None:
        if not stop.unraisable(found):
            hook(found)

    sys.unraisablehook = unraisable
    try:
        yield stop
    finally:
        sys.unraisablehook = hook
        for signum, before in known.items():
            signal.signal(signum, before)
