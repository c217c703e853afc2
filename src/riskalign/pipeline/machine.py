"""What a job runs on: device, precision, disk, versions; what the manifest says about it."""

import contextlib
import gc
import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

import riskalign
from riskalign.errors import InputError
from riskalign.models import LoadedModel
from riskalign.training import bf16_is_fast

_PACKAGES = (
    *("torch", "transformers", "accelerate", "peft", "datasets", "safetensors"),
    *("tokenizers", "numpy"),
)


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def idle_gpus(used: int = 1) -> str | None:
    """What there is to say of GPUs that are not used, of which each process uses one; or None."""
    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if n <= used or n < 2:
        return None
    idle = ", ".join(f"cuda:{i}" for i in range(used, n))
    return f"{used} of {n} GPUs in use, {idle} idle; launch: {{processes: {n}}} takes all."


def use_bf16(wanted: bool | None) -> bool:
    """Whether to compute in bfloat16: as wanted, else where the device does so natively."""
    return bf16_is_fast(best_device()) if wanted is None else wanted


def model_dtype(bf16: bool) -> torch.dtype:
    """The weights' dtype for sampling and scoring."""
    return torch.bfloat16 if bf16 else torch.float32


def for_inference(loaded: LoadedModel, bf16: bool) -> PreTrainedModel:
    """The model itself, moved to the best device, in bfloat16 where wanted."""
    model: Any = loaded.model
    moved: PreTrainedModel = model.to(device=best_device(), dtype=model_dtype(bf16)).eval()
    return moved


def release_memory() -> None:
    """Give back what no object here needs of the GPU's memory, for other processes to have."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def check_folder(folder: Path, field: str = "output_dir") -> None:
    """Make the folder that `field` names; raise `InputError` unless files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:  # which no kill leaves behind
            probe.write(b"1")
    except OSError as error:
        raise InputError(
            f"{field} {str(folder)!r}: cannot be written ({error.strerror}). Give another folder."
        ) from error


def reset_peak_memory() -> None:
    """Start the peak of `peak_memory` anew, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # Linux; elsewhere the peak is the process's so far.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> float:
    """Peak memory in MiB since it was reset: the GPU's allocated one, else the resident one."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kilobytes = usage // 1024 if sys.platform == "darwin" else usage
    return round(kilobytes / 1024, 1)


def check_disk(folder: Path, needed: int) -> None:
    """Raise `InputError` unless the disk of a folder, which is yet to make, too, has room."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise InputError(
            f"output_dir {str(folder)!r}: the job needs about {needed / 1e9:.1f} GB of disk and "
            f"{free / 1e9:.1f} GB are free. Free some, give another folder, or set "
            "save_strategy: no (no checkpoints to resume from)."
        )


def disk_used(folder: Path) -> int:
    """Bytes of the model files below a folder, each counted once under however many names."""
    found = [path.stat() for path in folder.rglob("*.safetensors") if path.is_file()]
    return sum({(file.st_dev, file.st_ino): file.st_size for file in found}.values())


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of any library comes from a full disk."""
    # torch.save, which writes the optimizer's state, complains of a position in its file only.
    return any(words in str(error) for words in ("No space left on device", "unexpected pos"))


def versions() -> dict[str, str]:
    """Versions of riskalign, Python and the packages that decide results, and RISKALIGN_NATIVE."""
    found = {"riskalign": riskalign.__version__, "python": platform.python_version()}
    if "RISKALIGN_NATIVE" in os.environ:
        found["RISKALIGN_NATIVE"] = os.environ["RISKALIGN_NATIVE"]
    return found | {name: importlib.metadata.version(name) for name in _PACKAGES}


def commit() -> str | None:
    """The git commit of a riskalign that runs from its source tree; `+` where it was changed."""
    source = Path(riskalign.__file__).resolve().parents[2]

    def git(*words: str) -> str:
        command = ["git", "-C", str(source), *words]
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=10)

    if not (source / ".git").exists():
        return None
    try:
        changed = git("status", "--porcelain", "-uno").strip()
        return git("rev-parse", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def describe() -> dict[str, object]:
    """The machine, for the manifest."""
    device = best_device()
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "native_bf16": use_bf16(None),
    }
