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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from riskalign.files.cache import cache_root
from riskalign.risk import Risk
from riskalign.tokens.head import Head
from riskalign.tokens.stats import MEASURES

logger = logging.getLogger(__name__)

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
                os.replace(name, target)
                return True
        logger.info("%s cannot compile %s: %s", compiler, _SOURCE.name, done.stderr[-500:])
        return False
    finally:
        Path(name).unlink(missing_ok=True)


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
        if not target.exists() and not _compile(compiler, target):
            return None
        loaded = ctypes.CDLL(str(target))
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.info("token statistics take the plain path: %s", error)
        return None
    integer, number, pointer = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    sides = (ctypes.POINTER(_Side), ctypes.POINTER(_Side), ctypes.c_int, pointer, integer, integer)
    loaded.statistics.restype = integer
    loaded.statistics.argtypes = (
        *sides,
        integer,
        integer,
        ctypes.c_int,
        number,
        *(pointer,) * 3,
    )
    loaded.gradient.restype = None
    loaded.gradient.argtypes = (*sides, integer, ctypes.c_int, number, *(pointer,) * 5)
    return loaded


@functools.lru_cache(maxsize=1)
def _pool(_process: int) -> ThreadPoolExecutor:
    # Threads of ours, as a second OpenMP beside torch's would fight it for the cores; the calls
    # release the interpreter's lock.
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="riskalign-rows")


def _in_parallel(work: Callable[[int, int], int], n_rows: int) -> bool:
    """Split rows among torch's number of threads; whether every part went well."""
    threads = min(torch.get_num_threads(), n_rows)
    ends = [n_rows * i // threads for i in range(threads + 1)]
    if threads == 1:
        return work(0, n_rows) == 0
    parts = [_pool(os.getpid()).submit(work, *ends[i : i + 2]) for i in range(threads)]
    odd = [part.result() for part in parts]  # all of them must end before their buffers do
    return not any(odd)


def _floats(*shape: int) -> Tensor:
    """Room that C may write floats to, whatever torch's defaults are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


class Rows:
    """Rows of both models' products [C, V], their statistics, and the gradient in their place.

    Both are contiguous and of one type, float32 or bfloat16.
    """

    def __init__(
        self,
        products: Tensor,
        products_ref: Tensor,
        head: Head,
        head_ref: Head,
        labels: Tensor,
        risk: Risk,
    ) -> None:
        n, vocabulary = products.shape
        self._kept = products, products_ref, labels.contiguous()
        self._biases = [
            None if h.bias is None else h.bias.detach().float().contiguous()
            for h in (head, head_ref)
        ]
        self._sides = [
            _Side(
                tensor.data_ptr(),
                None if bias is None else bias.data_ptr(),
                h.scale,
                h.softcap or 0.0,
                vocabulary,
            )
            for tensor, bias, h in zip(
                (products, products_ref), self._biases, (head, head_ref), strict=True
            )
        ]
        self._rows = _floats(n, _ROW_FLOATS)
        self._measure = MEASURES[risk.name], risk.parameter or 0.0

    def _arguments(self, first: int, last: int) -> tuple[object, ...]:
        products, _, labels = self._kept
        policy, ref = (ctypes.byref(side) for side in self._sides)
        half = int(products.dtype == torch.bfloat16)
        return (policy, ref, half, labels.data_ptr(), first, last)

    def _scratch(self) -> Tensor:
        return _floats(2 * (self._kept[0].shape[1] + _LANES))

    def statistics(self) -> Tensor | None:
        """`logp_policy, logp_ref, kl, risk, entropy` as [5, C]; None for logits of no size."""
        native = library()
        assert native is not None
        n, vocabulary = self._kept[0].shape
        stats = _floats(5, n)

        def work(first: int, last: int) -> int:
            scratch = self._scratch()
            odd: int = native.statistics(
                *self._arguments(first, last),
                n,
                vocabulary,
                *self._measure,
                *(tensor.data_ptr() for tensor in (scratch, stats, self._rows)),
            )
            return odd

        return stats if _in_parallel(work, n) else None

    def gradient(self, by_logp: Tensor, by_risk: Tensor, keep: bool) -> Tensor:
        """Derivative [C, V] by the policy's products, which it replaces unless they are kept."""
        native = library()
        assert native is not None
        n, vocabulary = self._kept[0].shape
        weights = by_logp.float().contiguous(), by_risk.float().contiguous()
        out = torch.empty_like(self._kept[0]) if keep else self._kept[0]

        def work(first: int, last: int) -> int:
            scratch = self._scratch()
            native.gradient(
                *self._arguments(first, last),
                vocabulary,
                *self._measure,
                *(tensor.data_ptr() for tensor in (scratch, self._rows, *weights, out)),
            )
            return 0

        _in_parallel(work, n)
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
