"""`rows.c`, compiled for this processor the first time that it is needed.

Where there is no C compiler, or `RISKALIGN_NATIVE=0` is set, the plain PyTorch code of `tile.py`
computes the same, slower (docs/speed.md).
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from riskalign.files.cache import cache_root
from riskalign.risk import Risk
from riskalign.tokens.head import Comparison, Head

logger = logging.getLogger(__name__)

#: Risk measures that `rows.c` and the Triton kernels know, under their numbers there.
MEASURES = {"mean": 0, "cvar": 1, "erm": 2}
_SOURCE = Path(__file__).with_name("rows.c")
_FLAGS = ("-O2", "-ftree-vectorize", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
# The first set that the compiler takes: wide vectors, this processor's own, or plain ones.
_TARGETS = (("-march=native", "-mprefer-vector-width=512"), ("-march=native",), ())
_LANES, _ROW_FLOATS = 32, 9  # of rows.c


class _Side(ctypes.Structure):
    _fields_ = (
        ("products", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
        ("stride", ctypes.c_int64),
    )


def _processor() -> str:
    """What tells processors apart that a compiled file does not run on alike."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    kinds = ("flags", "Features", "model name", "CPU part")
    return "".join(sorted({line for line in text.splitlines() if line.startswith(kinds)}))


def _compile(compiler: str, target: Path) -> bool:
    """Compile into `target`, which appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
    os.close(handle)
    try:
        for flags in _TARGETS:
            command = [compiler, *_FLAGS, *flags, "-shared", "-fPIC", str(_SOURCE), "-o", name]
            done = subprocess.run([*command, "-lm"], capture_output=True, check=False, timeout=120)
            if done.returncode == 0:
                os.chmod(name, 0o700)
                os.replace(name, target)
                return True
        logger.info("%s cannot compile %s: %s", compiler, _SOURCE.name, done.stderr[-500:])
        return False
    finally:
        Path(name).unlink(missing_ok=True)


def _own(path: Path) -> bool:
    """Whether nobody but this user and the machine's owner can have written it."""
    about = path.stat()
    return not hasattr(os, "getuid") or (
        about.st_uid in (0, os.getuid()) and not about.st_mode & 0o022
    )


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled file, or None where it cannot be had."""
    if os.environ.get("RISKALIGN_NATIVE", "1") == "0":
        return None
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        logger.info("no C compiler found: token statistics take the plain path")
        return None
    try:
        key = hashlib.sha256()
        for part in (_SOURCE.read_bytes(), compiler.encode(), _processor().encode()):
            key.update(part)
        key.update(repr((_FLAGS, _TARGETS)).encode())
        target = cache_root() / "native" / f"rows-{key.hexdigest()[:16]}.so"
        if not (target.exists() and _own(target)) and not _compile(compiler, target):
            return None
        if not _own(target.parent):
            logger.warning(
                "%s is not this user's alone, so what lies there is not run; token statistics take "
                "the plain path. Change its owner or mode, or set RISKALIGN_CACHE.",
                target.parent,
            )
            return None
        loaded = ctypes.CDLL(str(target))
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.info("token statistics take the plain path: %s", error)
        return None
    size, number, pointer = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    side = ctypes.POINTER(_Side)
    given = (side, side, ctypes.c_int, pointer, size, size)
    measure = (size, ctypes.c_int, number)
    loaded.statistics.restype, loaded.gradient.restype = size, None
    loaded.statistics.argtypes = (*given, size, *measure, *(pointer,) * 3)
    loaded.gradient.argtypes = (*given, *measure, *(pointer,) * 5)
    return loaded


@functools.lru_cache(maxsize=1)
def _pool(_process: int) -> ThreadPoolExecutor:
    # Threads of ours, as a second OpenMP beside torch's would fight it for the cores; the calls
    # release the interpreter's lock.
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="riskalign-rows")


def _floats(*shape: int) -> Tensor:
    """Room that C may write floats to, whatever torch's defaults are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


class Rows:
    """Rows of both models' products [C, V], their statistics, and the gradient in their place.

    Both are contiguous and of one type, float32 or bfloat16.
    """

    def __init__(
        self, compared: Comparison, products: Tensor, products_ref: Tensor, labels: Tensor
    ) -> None:
        def side(tensor: Tensor, head: Head) -> tuple[_Side, Tensor | None]:
            bias = None if head.bias is None else head.bias.detach().float().contiguous()
            pointer = None if bias is None else bias.data_ptr()
            cap, stride = head.softcap or 0.0, products.shape[1]
            return _Side(tensor.data_ptr(), pointer, head.scale, cap, stride), bias

        # The tensors are held, for C has only their addresses.
        self._kept = products, products_ref, labels.contiguous()
        self._sides = side(products, compared.head), side(products_ref, compared.head_ref)
        self._rows = _floats(len(products), _ROW_FLOATS)
        self._measure = MEASURES[compared.risk.name], compared.risk.parameter or 0.0

    def _call(self, name: str, *sizes: int, tensors: Sequence[Tensor]) -> bool:
        """Call C on all rows, split among torch's number of threads; whether all were ordinary."""
        products, _, labels = self._kept
        function: Any = getattr(library(), name)
        sides = [ctypes.byref(side) for side, _ in self._sides]
        half = int(products.dtype == torch.bfloat16)

        def work(first: int, last: int) -> int:
            scratch = _floats(2 * (products.shape[1] + _LANES))
            pointers = [tensor.data_ptr() for tensor in (scratch, *tensors)]
            rows = (labels.data_ptr(), first, last)
            return function(*sides, half, *rows, *sizes, *self._measure, *pointers) or 0

        n_rows = len(products)
        threads = min(torch.get_num_threads(), n_rows)
        if threads == 1:
            return work(0, n_rows) == 0
        ends = [n_rows * i // threads for i in range(threads + 1)]
        parts = [_pool(os.getpid()).submit(work, *ends[i : i + 2]) for i in range(threads)]
        odd = [part.result() for part in parts]  # all of them must end before their buffers do
        return not any(odd)

    def statistics(self) -> Tensor | None:
        """`logp_policy, logp_ref, kl, risk, entropy` as [5, C]; None for logits of no size."""
        n, vocabulary = self._kept[0].shape
        stats = _floats(5, n)
        ordinary = self._call("statistics", n, vocabulary, tensors=(stats, self._rows))
        return stats if ordinary else None

    def gradient(self, by_logp: Tensor, by_risk: Tensor, keep: bool) -> Tensor:
        """Derivative [C, V] by the policy's products, which it replaces unless they are kept."""
        products = self._kept[0]
        weights = by_logp.float().contiguous(), by_risk.float().contiguous()
        out = torch.empty_like(products) if keep else products
        self._call("gradient", products.shape[1], tensors=(self._rows, *weights, out))
        return out


def takes(products: Tensor, risk: Risk) -> bool:
    """Whether `Rows` can compute these products' statistics here."""
    return (
        products.device.type == "cpu"
        and products.dtype in (torch.float32, torch.bfloat16)
        and len(products) > 0
        and risk.name in MEASURES
        and library() is not None
    )
