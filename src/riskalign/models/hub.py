"""Model folders from the Hugging Face hub, with a quick answer where it cannot be reached."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from riskalign.errors import InputError

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_ANSWER_SECONDS = 5.0


class HubUnreachableError(Exception):
    """The hub gave no answer in time, or there is no network, or offline mode is on."""


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
        info = _within(
            _ANSWER_SECONDS,
            lambda: HfApi().model_info(repo_id, revision=revision, timeout=_ANSWER_SECONDS),
        )
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
        raise HubUnreachableError(str(error) or type(error).__name__) from error
    names = [entry.rfilename for entry in info.siblings or []]
    if not any(name.endswith(".safetensors") for name in names):
        raise InputError(
            f"model {repo_id!r} has no safetensors weights. Pickle weights are not loaded: "
            "convert it first (model.save_pretrained writes safetensors)."
        )
    patterns = [*_FILES, "*.py"] if with_code else _FILES
    try:
        return Path(snapshot_download(repo_id, revision=info.sha, allow_patterns=patterns))
    except Exception as error:
        raise HubUnreachableError(f"the download broke off: {error}") from error


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """`call()`, or TimeoutError after `seconds`: a name lookup has no time limit of its own."""
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["value"] = call()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if "error" in outcome:
        raise outcome["error"]
    if "value" not in outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return outcome["value"]
