"""Files and folders appear whole or not at all."""

import json
import os
from pathlib import Path

import pytest

from riskalign import atomic


def test_write_text_replaces(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    atomic.write_text(path, "one")
    atomic.write_text(path, "zwei é")
    assert path.read_text(encoding="utf-8") == "zwei é"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]
    assert path.stat().st_mode & 0o600 == 0o600


def test_failed_write_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    atomic.write_text(path, "old")
    monkeypatch.setattr(os, "fdopen", _no_space)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_text(path, "new")
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def _no_space(handle: int, *args: object, **options: object) -> object:
    os.close(handle)
    raise OSError(28, "No space left on device")


def test_new_folder_replaces_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with atomic.new_folder(target) as temporary:
        (temporary / "a").write_text("1")
    with atomic.new_folder(target) as temporary:
        (temporary / "b").write_text("2")
    assert [entry.name for entry in target.iterdir()] == ["b"]
    with pytest.raises(FileNotFoundError), atomic.new_folder(target) as temporary:
        (temporary / "no-such-folder" / "c").write_text("3")
    assert [entry.name for entry in target.iterdir()] == ["b"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("name", ["rows.jsonl", "deep/rows.jsonl"])
def test_rows_are_one_object_a_line(tmp_path: Path, name: str) -> None:
    rows = [{"a": "é\n"}, {"a": "\u2028"}]
    atomic.write_json_lines(tmp_path / name, rows)
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.split("\n") if line] == rows
    assert "é" in text
    assert atomic.read_json_lines(tmp_path / name) == rows
