"""What the benchmarks share: the machine in words, its matrix products' rate, peaks of memory."""

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_LIBRARIES = ("torch", "transformers", "trl", "triton", "riskalign")


def megabytes(device: str = "cpu") -> float:
    """Peak memory so far: the process's resident one, or the GPU's allocated one."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts kilobytes


def reset_peak(device: str) -> None:
    """Start a GPU's peak anew; a process's resident peak cannot be."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()


def peak_above(before: float, device: str = "cpu") -> float:
    """Peak memory above what it was before."""
    return megabytes(device) - before


def matmul_rate(precision: str, device: str = "cpu") -> float:
    """Floating-point operations a second of a large matrix product, the best of five."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    n = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2.0 * n**3 / best


def measured(
    script: str, variant: str, flags: Sequence[str], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The figures of `script --measure=variant`, which prints them, from a fresh process.

    A process that fails ends this one with what it wrote to standard error.
    """
    done = subprocess.run(
        [sys.executable, script, *flags, f"--measure={variant}"],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | dict(environment or {}),
    )
    if done.returncode:
        hint = "\nThe peers are in benchmarks/requirements.txt." if "trl" in variant else ""
        sys.exit(f"{variant} failed:\n{done.stderr[-2000:]}{hint}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def machine(device: str = "cpu") -> dict[str, Any]:
    """The device and the libraries' versions, for the figures' file."""
    import torch

    name = "CPU"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        name = platform.processor() or name
    wide = [key for key, has in torch.cpu.get_capabilities().items() if has is True]
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else name,
        "threads": torch.get_num_threads(),
        "instructions": sorted(key for key in wide if key.startswith(("amx", "avx"))),
        "versions": found,
    }


def save(
    results: Mapping[str, Any],
    path: Path | None,
    title: str,
    columns: Mapping[str, str],
    names: Mapping[str, str],
) -> None:
    """Print rows and ratios as tables, and write all of it to a file if one is named."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=title, caption=str(results["machine"]["device"]))
    for column in columns.values():
        table.add_column(column, justify="right")
    for row in results["rows"]:
        cells = (row.get(key, "") for key in columns)
        table.add_row(
            *(f"{c:.3g}" if isinstance(c, float) else names.get(c, str(c)) for c in cells)
        )
    console.print(table)
    if results["ratios"]:
        bars = Table(title="Ratios")
        for column in ("", "value", "bar", "holds"):
            bars.add_column(column)
        for ratio in results["ratios"]:
            bars.add_row(
                ratio["name"],
                f"{ratio['value']:.3g}",
                str(ratio["bar"]),
                "yes" if ratio["holds"] else "no",
            )
        console.print(bars)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
