"""Rows: what passes, what is refused, which field is the prompt and how it is split off."""

import logging
from typing import Any

import pytest

from riskalign.data.schema import PAIRS, check_row, check_rows, split_prompt
from riskalign.errors import InputError

GOOD = {"prompt": "Hi", "chosen": " yes", "rejected": " no"}


def test_explicit_prompt_is_kept() -> None:
    assert check_row(GOOD, "f, line 1") == {
        **GOOD,
        "score_chosen": None,
        "score_rejected": None,
    }


def test_scores_become_floats() -> None:
    pair = check_row({**GOOD, "score_chosen": 1, "score_rejected": 0.25}, "f, line 1")
    assert (pair["score_chosen"], pair["score_rejected"]) == (1.0, 0.25)


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("Ask: is it? yes", "Ask: is it? no", ("Ask: is it?", " yes", " no")),
        # A common beginning of a word belongs to the responses.
        ("code 1000", "code 1001", ("code", " 1000", " 1001")),
        ("same", "same", ("", "same", "same")),
        ("a b", "a", ("", "a b", "a")),
        ("x", "y", ("", "x", "y")),
    ],
)
def test_text_prompt_is_split_at_a_word(
    chosen: str, rejected: str, expected: tuple[str, str, str]
) -> None:
    assert split_prompt(chosen, rejected) == expected


def test_message_prompt_is_the_common_messages() -> None:
    ask = {"role": "user", "content": "Hi"}
    yes, no = {"role": "assistant", "content": "y"}, {"role": "assistant", "content": "n"}
    pair = check_row({"chosen": [ask, yes], "rejected": [ask, no]}, "f, row 1")
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ([ask], [yes], [no])


def test_extra_message_fields_are_left_out() -> None:
    row = {k: [{"role": "user", "content": k, "weight": 1}] for k in GOOD}
    assert check_row(row, "f, row 1")["prompt"] == [{"role": "user", "content": "prompt"}]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"chosen": "a"}, ["f, line 7", "'rejected' is missing", "fields found: chosen"]),
        ({"prompt": "p", "rejected": "a"}, ["f, line 7", "'chosen' is missing"]),
        ({**GOOD, "rejected": None}, ["'rejected' is missing"]),
        ({**GOOD, "chosen": 3}, ["'chosen' is int"]),
        ({**GOOD, "chosen": [{"role": "assistant", "content": "a"}]}, ["differ in kind"]),
        ({**GOOD, "prompt": []}, ["'prompt' and 'chosen' differ in kind"]),
        ({**GOOD, "chosen": [{"role": "user"}]}, ["'chosen', message 1", "'content'"]),
        ({**GOOD, "prompt": "a\ud83d"}, ["'prompt', character 2", "half of a character"]),
        (
            {k: [{"role": "user", "content": "\ude00"}] for k in GOOD},
            ["'prompt', character 1", "half of a character"],
        ),
        ({**GOOD, "score_chosen": 1.0}, ["'score_rejected' is missing"]),
        ({**GOOD, "score_chosen": "1", "score_rejected": 0}, ["'score_chosen'", "finite number"]),
        (
            {**GOOD, "score_chosen": float("nan"), "score_rejected": 0},
            ["'score_chosen'", "finite number"],
        ),
    ],
)
def test_bad_rows_name_place_field_and_remedy(row: Any, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        check_row(row, "f, line 7")
    for word in ["f, line 7", *words]:
        assert word in str(caught.value)


def test_mixed_kinds_are_refused() -> None:
    messages = {k: [{"role": "user", "content": k}] for k in GOOD}
    with pytest.raises(InputError, match="line 2: holds messages where f, line 1 holds text"):
        list(check_rows([("f, line 1", GOOD), ("f, line 2", messages)], PAIRS.check))


ANSWERS = {"chosen": " yes", "rejected": " no"}
ASK = {"role": "user", "content": "Is it?"}
YES, NO = {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
BRIEF = {"role": "system", "content": "Be brief."}
WHOLE = {"chosen": [ASK, YES], "rejected": [ASK, NO]}
TURNS = {"chosen": [YES], "rejected": [NO]}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"instruction": "Is it?", **ANSWERS}, "Is it?"),
        ({"instruction": "Is it?", "input": "", **ANSWERS}, "Is it?"),
        ({"instruction": "Is it?", "input": "A door.", **ANSWERS}, "Is it?\n\nA door."),
        ({"question": "Is it?", **ANSWERS}, "Is it?"),
        ({"system": "Be brief.", "question": "Is it?", **ANSWERS}, "Be brief.\n\nIs it?"),
        ({"system": "", "input": "Is it?", **ANSWERS}, "Is it?"),
        ({"prompt": "Is it?", "question": "Is it?", **ANSWERS}, "Is it?"),
        ({"messages": [ASK], **TURNS}, [ASK]),
        ({"system": "Be brief.", "messages": [ASK], **TURNS}, [BRIEF, ASK]),
        ({"system": "Be brief.", "prompt": [BRIEF, ASK], **TURNS}, [BRIEF, ASK]),
        # UltraFeedback-binarized: a text beside whole conversations, and the better one again.
        ({"prompt": "Is it?", "messages": [ASK, YES], **WHOLE}, [ASK]),
        # orpo-dpo-mix
        ({"prompt": "Is it?", "question": None, "source": "x", **WHOLE}, [ASK]),
        ({"prompt": "", "question": "Is it?", "source": "x", **WHOLE}, [ASK]),
        ({"question": "Is it?", **WHOLE}, [ASK]),
        # The prompt, and whole conversations that repeat it.
        ({"prompt": [ASK], **WHOLE}, [ASK]),
        ({"system": "Be brief.", **WHOLE}, [BRIEF, ASK]),
    ],
)
def test_known_layouts_are_taken(row: Any, prompt: Any) -> None:
    pair = check_row(row, "f, row 1")
    assert pair["prompt"] == prompt
    answers = ANSWERS if isinstance(row["chosen"], str) else TURNS
    assert {side: pair[side] for side in answers} == answers


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"instruction": "Is it?", "question": "When?", **ANSWERS}, "'instruction', 'question'"),
        ({"prompt": "Is it?", "input": "A door.", **ANSWERS}, "'prompt', 'input'"),
        ({"context": "A door.", **ANSWERS}, "'context'"),
        ({"conversations": [{"from": "human"}], **ANSWERS}, "'conversations'"),
        ({"prompt": "When?", **WHOLE}, "the text in 'prompt' is not what"),
        ({"system": "Be long.", "prompt": [BRIEF, ASK], **TURNS}, "'system', 'prompt'"),
        ({"prompt": [ASK], **ANSWERS}, "differ in kind"),
        ({"messages": [ASK], **ANSWERS}, "differ in kind"),
    ],
)
def test_fields_that_would_be_thrown_away_are_refused(row: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"f, row 7.*{words}"):
        check_row(row, "f, row 7")


def test_rows_without_a_prompt_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    list(check_rows([("f, row 1", ANSWERS), ("f, row 2", {"prompt": "a", **ANSWERS})], PAIRS.check))
    assert "1 of 2 rows have no prompt" in caplog.text
    caplog.clear()
    list(check_rows([("f, row 1", {"prompt": "a", **ANSWERS})], PAIRS.check))
    assert not caplog.text
