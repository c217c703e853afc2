"""The kills' own instruments: they kill where they say, and see what differs."""

import json
import os
import signal
import sys
from collections import Counter
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


def test_what_came_too_late_is_tried_again_and_not_for_ever() -> None:
    tried: list[tuple[str, int, bool]] = []

    def attempt(kind: str, came: int, again: bool) -> bool:
        tried.append((kind, came, again))
        own = sum(each[0] == kind for each in tried)
        return kind == "every" or (kind == "second" and own % 2 == 0)

    asked = {"every": 2, "second": 2, "never": 2, "none": 0}
    *_, came = kills.in_turn(asked, attempt)
    assert came == {"every": 2, "second": 2, "never": 0, "none": 0}
    told = {kind: [each[1:] for each in tried if each[0] == kind] for kind in asked}
    assert told["every"] == [(0, False), (1, False)]
    assert told["second"] == [(0, False), (0, True), (1, False), (1, True)]
    assert told["never"] == [(0, False), *5 * [(0, True)]]
    assert told["none"] == []
    assert {kind for kind, _, _ in tried[:3]} == {"every", "second", "never"}, "in turn"


@pytest.mark.parametrize(("code", "counts"), [(0, "ended before"), (-9, "killed")])
def test_only_a_kill_that_came_in_time_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, counts: str
) -> None:
    bench = object.__new__(kills.Bench)
    bench.counts, bench.problems, bench.run = Counter(), [], tmp_path / "run"
    resumed: list[str] = []
    monkeypatch.setattr(bench, "resume", lambda kind, name, what: resumed.append(name))
    monkeypatch.setattr(kills, "ended", lambda pid: code)
    assert bench.killed("k", "job", "1 s", 1) == bool(code)
    assert bench.counts[f"k: {counts}"] == 1
    assert bench.counts["k: killed"] == bench.counts["k: killed before anything was written"]
    assert resumed == ["job"] * bool(code)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_child_is_not_deaf_to_what_its_parent_ignores(tmp_path: Path, name: str) -> None:
    signum = signal.Signals[name]

    def before() -> None:
        os.kill(os.getpid(), signum)
        os._exit(0)

    handler = signal.signal(signum, signal.SIG_IGN)
    try:
        code = kills.ended(kills.child([], tmp_path / "log", before))
    finally:
        signal.signal(signum, handler)
    assert code == (1 if signum == signal.SIGINT else -signum)
