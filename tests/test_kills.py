"""The kills' own instruments: they kill where they say, and see what differs."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from benchmarks import kills

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")


@pytest.mark.parametrize(("after", "left"), [(False, "b"), (True, "c")])
def test_a_process_dies_before_or_after_its_act(tmp_path: Path, after: bool, left: str) -> None:
    (tmp_path / "a").write_text("1")
    pid = os.fork()
    if not pid:
        kills.die_at(1, after)()
        (tmp_path / "a").replace(tmp_path / "b")
        (tmp_path / "b").replace(tmp_path / "c")
        (tmp_path / "c").unlink()
        os._exit(0)
    assert kills.ended(pid) == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [left]


def test_a_changed_byte_and_a_file_more_are_seen_and_times_are_not(tmp_path: Path) -> None:
    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    write("model/weights", "1")
    write("results.json", json.dumps({"a": [{"seconds": 1, "b": 1}]}))
    whole = kills.content(tmp_path)
    write("results.json", json.dumps({"a": [{"seconds": 2, "b": 1}]}))
    assert kills.content(tmp_path) == whole
    write(".riskalign/tmp/x", "1")
    assert kills.content(tmp_path).keys() - whole.keys() == {".riskalign/tmp/x"}
    for name, text in (("model/weights", "2"), ("results.json", json.dumps({"a": [{"b": 2}]}))):
        before = (tmp_path / name).read_text()
        write(name, text)
        found = kills.content(tmp_path)
        assert found[name] != whole[name]
        write(name, before)
