"""Files of answers are read and matched, and what is wrong with them is told by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from riskalign.errors import InputError
from riskalign.evaluation.judges import Turn, match, read_answers, read_prompts


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_text_and_messages_are_the_same_prompt(tmp_path: Path) -> None:
    one = write(tmp_path / "a.jsonl", {"prompt": "When?", "answer": "Now."})
    messages = [{"role": "user", "content": "When?"}]
    two = write(tmp_path / "b.jsonl", {"prompt": messages, "text": "Then.", "prompt_id": "p"})
    [item] = match({"a": read_answers(one), "b": read_answers(two)}, {})
    assert item.messages == (Turn("user", "When?"),)
    assert item.answers == {"a": ("Now.",), "b": ("Then.",)}


def test_rows_are_matched_whatever_their_order(tmp_path: Path) -> None:
    rows = [{"prompt": p, "answer": f"{p}{i}"} for i in range(2) for p in "xyz"]
    a = write(tmp_path / "a.jsonl", *rows)
    b = write(tmp_path / "b.jsonl", *sorted(rows, key=lambda row: row["answer"]))
    items = match({"a": read_answers(a), "b": read_answers(b)}, {})
    assert [item.answers["a"] for item in items] == [("x0", "x1"), ("y0", "y1"), ("z0", "z1")]
    assert all(item.answers["a"] == item.answers["b"] for item in items)


def test_a_runs_answers_with_the_prompts_apart(tmp_path: Path) -> None:
    scored = {"reward": 1.0, "cost": 0.0, "kl": float("nan"), "srr": float("nan"), "length": 2}
    a = write(tmp_path / "a.jsonl", {"prompt_id": "p", "text": "Now.", **scored})
    b = write(tmp_path / "b.jsonl", {"prompt_id": "p", "text": "Then.", **scored})
    rows = {"a": read_answers(a), "b": read_answers(b)}
    asked = read_prompts(write(tmp_path / "p.jsonl", {"prompt_id": "p", "prompt": "When?"}))
    [item] = match(rows, asked)
    assert (item.prompt_id, item.messages) == ("p", (Turn("user", "When?"),))
    with pytest.raises(InputError, match=r"a\.jsonl, line 1: .*'p' is not known.*--prompts"):
        match(rows, {})


def test_ids_that_stand_for_two_prompts(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", {"prompt_id": "p", "prompt": "x", "answer": "1"})
    b = write(tmp_path / "b.jsonl", {"prompt_id": "p", "prompt": "y", "answer": "1"})
    with pytest.raises(InputError, match=r"b\.jsonl, line 1: prompt_id 'p' has another prompt"):
        match({"a": read_answers(a), "b": read_answers(b)}, {})
    # Also where rows without an id are matched by their prompts: what would `p` alone stand for?
    c = write(tmp_path / "c.jsonl", {"prompt": "x", "answer": "1"})
    with pytest.raises(InputError, match=r"b\.jsonl, line 1: prompt_id 'p' has another prompt"):
        match({"a": read_answers(a), "b": read_answers(b), "c": read_answers(c)}, {})
    rows = [{"prompt_id": "p", "prompt": "x"}, {"prompt_id": "p", "prompt": "y"}]
    with pytest.raises(InputError, match="line 2: prompt_id 'p' stands for another"):
        read_prompts(write(tmp_path / "p.jsonl", *rows))


def test_what_does_not_match_is_told(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", *({"prompt": p, "answer": "1"} for p in "xyz"))
    b = write(tmp_path / "b.jsonl", *({"prompt": p, "answer": "1"} for p in "xyy"))
    with pytest.raises(InputError, match="'a' and 'b' differ in 2 of 3 prompts"):
        match({"a": read_answers(a), "b": read_answers(b)}, {})


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"answer": "x"}, "'prompt' and 'prompt_id' are missing"),
        ({"prompt": "x"}, "'answer' and 'text' are missing"),
        ({"prompt": "x", "answer": 3}, "field 'answer' is int"),
        ({"prompt": 3, "answer": "x"}, "field 'prompt' is int"),
        ({"prompt": [], "answer": "x"}, "field 'prompt' is empty"),
        ({"prompt": [{"role": "pirate", "content": "x"}], "answer": "x"}, "message 1: 'role'"),
        ({"prompt": [{"role": "user"}], "answer": "x"}, "field 'prompt', message 1"),
        ({"prompt_id": 3, "answer": "x"}, "field 'prompt_id' is int"),
        ({"prompt": "x", "answer": "\ud800"}, "half of a character"),
        ([1], "expected an object"),
    ],
)
def test_bad_rows(tmp_path: Path, row: Any, words: str) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "x", "answer": "y"}, row)
    with pytest.raises(InputError, match=words) as caught:
        read_answers(path)
    assert "a.jsonl, line 2" in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    for name, words in (
        ("empty.jsonl", "no row"),
        ("none.jsonl", "no such file"),
        ("some/set", "ending"),
    ):
        with pytest.raises(InputError, match=words):
            read_answers(tmp_path / name)
    with pytest.raises(InputError, match="both 'prompt_id' and 'prompt'"):
        read_prompts(write(tmp_path / "p.jsonl", {"prompt_id": "p"}))
