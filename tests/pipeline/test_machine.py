"""Precision by what the device can do, room on the disk, versions and commit."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from riskalign.errors import InputError
from riskalign.pipeline import machine


def test_bf16_is_as_wanted_else_as_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.use_bf16(True)
    assert not machine.use_bf16(False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for fast in (True, False):
        capabilities = {"amx_bf16": fast}
        monkeypatch.setattr(torch.cpu, "get_capabilities", capabilities.copy, raising=False)
        assert machine.use_bf16(None) is fast
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert machine.use_bf16(None)


def test_disk_room_is_checked_and_hard_links_count_once(tmp_path: Path) -> None:
    machine.check_disk(tmp_path, 1)
    machine.check_disk(tmp_path / "yet" / "to make", 1)
    with pytest.raises(InputError, match=r"needs about 1000000000.0 GB of disk"):
        machine.check_disk(tmp_path, 10**18)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.safetensors").write_bytes(b"12345")
    os.link(tmp_path / "a" / "model.safetensors", tmp_path / "model.safetensors")
    assert machine.disk_used(tmp_path) == 5


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    machine.check_folder(tmp_path / "new" / "deep")
    assert list((tmp_path / "new" / "deep").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"output_dir .* cannot be written"):
        machine.check_folder(tmp_path / "file")


def test_commit_of_a_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src" / "riskalign" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.touch()
    monkeypatch.setattr("riskalign.__file__", str(package))
    assert machine.commit() is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    assert machine.commit() is None, "no commit yet"
    git("add", ".")
    git("commit", "-m", "one")
    assert machine.commit() == git("rev-parse", "HEAD")
    package.write_text("changed")
    assert machine.commit() == git("rev-parse", "HEAD") + "+"


def test_versions_and_description_are_plain() -> None:
    assert machine.versions()["torch"] == torch.__version__
    assert set(machine.describe()) >= {"device", "threads", "native_bf16"}
    assert machine.is_disk_full(OSError(28, "No space left on device"))
    if Path("/dev/full").is_char_device():  # Linux's disk that is always full
        with pytest.raises(RuntimeError) as caught:
            torch.save(torch.zeros(10_000), "/dev/full")
        assert machine.is_disk_full(caught.value)
    assert not machine.is_disk_full(OSError(2, "No such file or directory"))


@pytest.mark.parametrize(
    ("n", "used", "said"),
    [
        (0, 1, None),
        (1, 1, None),
        (3, 1, "1 of 3 GPUs in use, cuda:1, cuda:2 idle; launch: {processes: 3} takes all."),
        (3, 2, "2 of 3 GPUs in use, cuda:2 idle; launch: {processes: 3} takes all."),
        (3, 3, None),
    ],
)
def test_idle_gpus_are_named(
    monkeypatch: pytest.MonkeyPatch, n: int, used: int, said: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
    assert machine.idle_gpus(used) == said
