"""This process: the signals that end it, none of them in silence, and the memory that it keeps."""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

# <malloc.h> of the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
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


def keep_freed_memory() -> bool:
    """Tell the C library to reuse freed blocks instead of giving them back to the system.

    By default glibc asks the kernel for every tensor above 32 MiB anew, and the kernel clears
    each page before the first write: on a CPU that can cost as much as a decoding step's matrix
    products. Only the command line does so: a library must not change its host's allocator.

    Returns whether the C library took the setting (glibc does, others are left alone).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    largest = 2**31 - 1
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30) and mallopt(_M_TRIM_THRESHOLD, largest))
