"""Replies outlive a crash; what a crash tore is asked again and spoils nothing else."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from riskalign.evaluation.judges import JudgeSettings, Reply, Turn
from riskalign.evaluation.judges.ask import Replies, reply_key

SETTINGS = JudgeSettings("http://127.0.0.1/v1", "m")
ASKED = [Turn("user", "?")]


def test_kept_replies_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "replies.jsonl"
    path.parent.mkdir()
    replies = Replies(path)
    given = {"a": Reply("half \ud800\nline", (1, 2)), "b": Reply("", None, refused=True)}
    given["c"] = Reply("", (0, 0), too_long=True)
    for key, reply in given.items():
        replies.keep(key, reply)
    for known in (replies, Replies(path)):
        assert {key: known.find(key) for key in given} == given
        assert known.find("d") is None


@pytest.mark.parametrize("lost", [1, 10, 40])
def test_a_torn_line_is_asked_again_and_the_next_is_whole(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "replies.jsonl"
    replies = Replies(path)
    replies.keep("a", Reply("first"))
    replies.keep("b", Reply("second"))
    path.write_bytes(path.read_bytes()[:-lost])
    torn = Replies(path)
    assert torn.find("a") == Reply("first")
    assert (torn.find("b") is None) == (lost > 1)  # without its line end it is whole still
    torn.keep("c", Reply("third"))
    torn.keep("d", Reply("fourth"))
    again = Replies(path)
    assert [again.find(key) is not None for key in "acd"] == [True, True, True]


def test_lines_that_are_no_replies_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    Replies(path).keep("a", Reply("first"))
    bad = [b"[]", b"{}", b"\xff", b'{"key": 1, "text": "", "usage": null, "refused": false}']
    bad += [b'{"key": "z", "text": "", "usage": [1], "refused": false}', b"[" * 100_000]
    path.write_bytes(b"\n".join([*bad, path.read_bytes()]))
    replies = Replies(path)
    assert replies.find("a") == Reply("first")
    assert replies.find("z") is None


def test_lines_from_before_too_long_was_known_are_read(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_text('{"key": "a", "text": "x", "usage": [1, 2], "refused": false}\n')
    assert Replies(path).find("a") == Reply("x", (1, 2))


def test_the_key_holds_everything_that_decides_a_reply() -> None:
    changed = [
        JudgeSettings("http://127.0.0.1/v2", "m"),
        JudgeSettings("http://127.0.0.1/v1", "n"),
        JudgeSettings("http://127.0.0.1/v1", "m", max_tokens=9),
        JudgeSettings("http://127.0.0.1/v1", "m", seed=0),
        JudgeSettings("http://127.0.0.1/v1", "m", temperature=None),
        JudgeSettings("http://127.0.0.1/v1", "m", max_tokens_field="max_completion_tokens"),
    ]
    keys = {reply_key(settings, ASKED) for settings in (SETTINGS, *changed)}
    keys.add(reply_key(SETTINGS, [Turn("user", "!")]))
    assert len(keys) == 8
    same = JudgeSettings("http://127.0.0.1/v1/", "m", timeout=1, max_retries=0, price_in=3)
    assert reply_key(same, ASKED) == reply_key(SETTINGS, ASKED)


def test_a_line_that_a_full_disk_tore_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "replies.jsonl"
    replies = Replies(path)
    replies.keep("a", Reply("first"))

    @contextlib.contextmanager
    def full(path: Path, mode: str) -> Iterator[Any]:
        with open(path, mode) as stream:
            stream.write(b'{"key": "b", "te')
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space left"):
            replies.keep("b", Reply("second"))
    assert replies.find("b") is None
    replies.keep("c", Reply("third"))
    replies.keep("d", Reply("fourth"))
    again = Replies(path)
    assert [again.find(key) is not None for key in "abcd"] == [True, False, True, True]
