"""Groups of scored answers: checks, tokens, and what is counted as dropped."""

import json
from pathlib import Path
from typing import Any

import pytest

from riskalign.data import is_grouped, load_groups, tokenize_rows
from riskalign.errors import InputError
from tests import tiny

GROUP: dict[str, Any] = {
    "prompt": "When?",
    "completions": [" On Tuesday.", " I am sorry.", " On Tuesday."],
    "scores": [1.0, 0.0, 0.5],
}


def chat(*answers: str, scores: tuple[float, ...]) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": "When?"}],
        "completions": [[{"role": "assistant", "content": answer}] for answer in answers],
        "scores": list(scores),
    }


def test_a_file_of_groups_is_read(tmp_path: Path) -> None:
    path = tmp_path / "groups.jsonl"
    path.write_text("\n".join(json.dumps(GROUP) for _ in range(3)) + "\n")
    assert is_grouped(str(path))
    assert not is_grouped(tiny.make_pairs(1))
    assert load_groups(str(path)).to_list() == [GROUP] * 3


def test_tokens_are_those_of_pairs() -> None:
    rows, counts = tokenize_rows(
        load_groups([chat("On Tuesday.", "I am sorry.", scores=(1.0, 0.0))]),
        tiny.make_tokenizer(),
        max_length=None,
    )
    pair = {
        "prompt": [{"role": "user", "content": "When?"}],
        "chosen": [{"role": "assistant", "content": "On Tuesday."}],
        "rejected": [{"role": "assistant", "content": "I am sorry."}],
    }
    pairs, _ = tokenize_rows([pair], tiny.make_tokenizer(), max_length=None)
    assert rows[0]["prompt_ids"] == pairs[0]["prompt_ids"]
    assert rows[0]["completions_ids"] == [pairs[0]["chosen_ids"], pairs[0]["rejected_ids"]]
    assert rows[0]["scores"] == [1.0, 0.0]
    assert rows[0]["length"] == pairs[0]["length"]
    assert (counts.rows, counts.kept) == (1, 1)


def test_what_is_dropped_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    groups = [
        chat("a", "a", "b", scores=(1.0, 1.0, 0.0)),  # a repeated answer stays
        chat("a", " ", "b", scores=(1.0, 2.0, 0.0)),  # an empty one goes
        chat("a", "a", scores=(1.0, 1.0)),  # nothing to tell apart
        chat("a", "b", scores=(1.0, 1.0)),  # no order, but a gap of 0
        chat("", "", scores=(1.0, 0.0)),
    ]
    rows, counts = tokenize_rows(load_groups(groups), tiny.make_tokenizer(), max_length=None)
    assert [len(row["scores"]) for row in rows] == [3, 2, 2]
    assert (counts.rows, counts.kept, counts.dropped_empty, counts.dropped_identical) == (
        (5, 3, 3, 2)
    )
    assert "2 dropped identical" in caplog.text
    rows, counts = tokenize_rows(
        load_groups(groups), tiny.make_tokenizer(), max_length=None, ties=False
    )
    assert (counts.kept, counts.dropped_identical) == (2, 3)


def test_long_answers_are_cut_and_counted() -> None:
    rows, counts = tokenize_rows(
        load_groups([GROUP]), tiny.make_tokenizer(), max_length=8, max_prompt_length=3
    )
    assert max(len(ids) for ids in rows[0]["completions_ids"]) <= 8 - len(rows[0]["prompt_ids"])
    assert counts.truncated_prompts == 1
    assert counts.truncated_responses > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": [1.0, 0.0]}, "row 1: 3 'completions' and 2 'scores'"),
        ({"completions": ["a"], "scores": [1.0]}, "at least two"),
        ({"scores": None}, "field 'scores' is None"),
        ({"completions": "text"}, "field 'completions' is 'text'. Give a list"),
        ({"scores": [1.0, 0.0, float("nan")]}, "finite"),
        ({"scores": [1.0, 0.0, True]}, "finite"),
        ({"completions": [1, 2, 3]}, "'completions' is int"),
        ({"prompt": [{"role": "user", "content": "x"}]}, "differ in kind"),
        ({"prompt": None}, "'prompt' is missing"),
    ],
)
def test_bad_groups_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_groups([GROUP | change])


def test_rows_of_two_kinds_and_none_are_refused() -> None:
    with pytest.raises(InputError, match=r"row 2: holds messages where .*row 1 holds text"):
        load_groups([GROUP, chat("a", "b", scores=(1.0, 0.0))])
    with pytest.raises(InputError, match="holds no row"):
        load_groups([])
    with pytest.raises(InputError, match="No group of answers is left"):
        tokenize_rows(
            load_groups([chat("a", "a", scores=(1.0, 0.0))]), tiny.make_tokenizer(), max_length=None
        )
