"""The hub's answers, and its silence, become errors that say what to do."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from riskalign.errors import InputError
from riskalign.models import hub, load_model


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")


def _answer(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> None:
    def model_info(self: Any, repo_id: str, **options: Any) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome() if callable(outcome) else outcome

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)


def _refusal(kind: type[Exception]) -> Exception:
    response: Any = SimpleNamespace(headers={}, request=None)
    make: Any = kind
    refusal: Exception = make("refused", response=response)
    return refusal


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (GatedRepoError, "gated.*hf auth login"),
        (RepositoryNotFoundError, "no such folder or file here, and no such public model"),
        (RevisionNotFoundError, "no revision 'v2'"),
    ],
)
def test_refusals_are_input_errors(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], message: str
) -> None:
    _answer(monkeypatch, _refusal(kind))
    with pytest.raises(InputError, match=message):
        load_model("some-org/some-model@v2")


def test_pickle_only_repository_is_refused_before_any_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = [SimpleNamespace(rfilename=name) for name in ("config.json", "pytorch_model.bin")]
    _answer(monkeypatch, SimpleNamespace(siblings=files, sha="abc"))
    with pytest.raises(InputError, match="no safetensors weights"):
        load_model("some-org/some-model")


def test_no_network_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, ConnectionError("name lookup failed"))
    with pytest.raises(InputError, match=r"out of reach \(name lookup failed\)"):
        load_model("some-org/some-model")


def test_silence_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_ANSWER_SECONDS", 0.05)
    given_up = threading.Event()
    _answer(monkeypatch, given_up.wait)
    with pytest.raises(hub.HubUnreachableError, match="no answer within"):
        hub.download_snapshot("some-org/some-model")
    given_up.set()


def test_offline_mode_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, AssertionError("the hub was asked in offline mode"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        load_model("some-org/some-model")
