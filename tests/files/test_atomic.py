"""Files and folders appear whole or not at all."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from riskalign.files import atomic


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
    monkeypatch.setattr(Path, "write_bytes", _no_space)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_text(path, "new")
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def _no_space(path: Path, content: bytes) -> object:
    path.touch()
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


@pytest.mark.skipif(sys.platform == "win32", reason="processes are not asked for there")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_beside_a_target_goes_with_the_next_write(
    tmp_path: Path, kind: str
) -> None:
    script = """
        import os, sys
        from pathlib import Path
        from riskalign.files import atomic
        if sys.argv[2] == "file":
            Path.replace = lambda *_: os.kill(os.getpid(), 9)
            atomic.write_text(sys.argv[1], "half")
        with atomic.new_folder(sys.argv[1]) as place:
            (place / "half").write_text("half")
            os.kill(os.getpid(), 9)
    """
    target, others = tmp_path / "out", ["out.jsonl", ".out-notes", ".outer", ".out-1-1-abcdefgh"]
    for name in others:
        (tmp_path / name).write_text("mine")
    command = [sys.executable, "-c", textwrap.dedent(script), str(target), kind]
    assert subprocess.run(command, check=False).returncode == -9
    (left,) = {path.name for path in tmp_path.iterdir()} - {*others}
    assert (tmp_path / left).is_dir()
    atomic.write_text(tmp_path / "another", "1")
    assert (tmp_path / left).exists()
    # Who lives may still be at work.
    alive = re.sub(r"-\d+-(?=[a-z0-9_]{8}$)", f"-{os.getppid()}-", left)
    (tmp_path / alive).write_text("under way")
    atomic.write_text(target, "whole")
    assert {path.name for path in tmp_path.iterdir()} == {*others, alive, "another", "out"}
    assert {(tmp_path / name).read_text() for name in others} == {"mine"}
    assert target.read_text() == "whole"
