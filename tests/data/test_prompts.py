"""Layouts of public preference sets: what is a row's prompt, and what is refused."""

import logging
from typing import Any

import pytest

from riskalign.data.schema import PAIRS, check_row, check_rows
from riskalign.errors import InputError

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
    check_rows([("f, row 1", ANSWERS), ("f, row 2", {"prompt": "a", **ANSWERS})], PAIRS.check)
    assert "1 of 2 rows have no prompt" in caplog.text
    caplog.clear()
    check_rows([("f, row 1", {"prompt": "a", **ANSWERS})], PAIRS.check)
    assert not caplog.text
