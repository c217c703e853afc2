"""Every format becomes judged answers, and every fault an error that names its place."""

import json
from pathlib import Path
from typing import Any

import pytest

from riskalign.data.preferences import PreferenceSettings, load_preferences
from riskalign.errors import InputError
from riskalign.scorers import Judged, Kind, judged_rows
from tests.scorers import toy

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def test_two_responses() -> None:
    row = toy.judged(1, first=3)[0]  # mixed; the second answer is better and safer
    answers = (row["response_0"], row["response_1"])
    assert judged_rows([row], "cost") == [Judged(row["prompt"], answers, 1, (True, False))]
    assert judged_rows([row], "reward") == [Judged(row["prompt"], answers, 1)]
    row["better_response_id"] = 0
    assert judged_rows([row], "reward")[0].first == 0
    assert judged_rows([row], "cost")[0].first == 1


def test_pairs_and_completions(tmp_path: Path) -> None:
    scored = PAIR | {"score_chosen": 0.0, "score_rejected": -2.0}
    assert judged_rows([scored], "cost") == [Judged("p", ("good", "bad"), 0, (False, True))]
    assert judged_rows([PAIR], "reward") == [Judged("p", ("good", "bad"), 0)]
    path = tmp_path / "rows.jsonl"
    path.write_text(
        json.dumps({"prompt": "p", "completion": "c", "label": False}) + "\n" + json.dumps(scored)
    )
    first, second = judged_rows(path, "cost")
    assert first == Judged("p", ("c",), None, (True,))
    assert second.unsafe == (False, True)


def test_transcripts_have_the_prompts_that_steps_are_trained_on(tmp_path: Path) -> None:
    """Else no scorer would be found to have learnt from a step's prompts."""
    start = "\n\nHuman: hi\n\nAssistant: I think "
    rows = [
        {"chosen": f"{start}so 0", "rejected": f"{start}not 0"},
        {"chosen": f"{start}a\n\nHuman: more", "rejected": f"{start}b"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_preferences(PreferenceSettings(path=str(path), eval_fraction=0.0))
    (pair,) = found.judged("train", "helpful")
    (row,) = judged_rows(path, "reward")
    assert row == Judged(pair["prompt"], (pair["chosen"], pair["rejected"]), 0)
    assert row.prompt == [{"role": "user", "content": "hi"}]
    assert row.answers[0] == [{"role": "assistant", "content": "I think so 0"}]
    with pytest.raises(InputError, match="row 1: fields 'score_chosen'"):
        judged_rows(rows, "cost")
    with pytest.raises(InputError, match="row 1: field 'chosen' does not end with an answer"):
        judged_rows(rows[1:], "reward")


TWO = toy.judged(1)[0]
ONE = {"prompt": "p", "completion": "c", "label": True}


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        (PAIR, "cost", "line 1: fields 'score_chosen'.*minus the costs"),
        (TWO | {"better_response_id": 2}, "reward", "line 1: field 'better_response_id' is 2"),
        (TWO | {"better_response_id": True}, "reward", "is True. Give 0 or 1"),
        (TWO | {"safer_response_id": None}, "cost", "'safer_response_id' is None"),
        (TWO | {"is_response_1_safe": 1}, "cost", "'is_response_1_safe' is 1. Give true"),
        (TWO | {"response_1": None}, "cost", "'response_1' is missing"),
        (TWO | {"prompt": 7}, "cost", "'prompt' is int"),
        (ONE, "reward", "reward is learnt from pairs"),
        (ONE | {"label": "yes"}, "cost", "'label' is 'yes'"),
        ({"prompt": "p"}, "cost", r"fields found: prompt\). Give prompt, response_0"),
        ([1], "cost", "expected an object"),
    ],
)
def test_refusals(row: Any, kind: Kind, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(InputError, match=message) as error:
        judged_rows(path, kind)
    assert str(error.value).startswith(f"{path}, line 1: ")


def test_nothing_and_another_kind() -> None:
    with pytest.raises(InputError, match="data: holds no row"):
        judged_rows([], "cost")
    with pytest.raises(InputError, match="kind is 'good'"):
        judged_rows([PAIR], "good")  # type: ignore[arg-type]
