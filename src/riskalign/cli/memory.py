"""Let the process keep memory that it frees."""

from __future__ import annotations

import ctypes
import sys

# <malloc.h> of the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


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
