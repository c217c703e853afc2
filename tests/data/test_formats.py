"""Each format read by hand, and its errors: where, which field, what to do."""

from typing import Any

import pytest

from riskalign.data.formats import (
    Record,
    about_safety,
    guess_format,
    hh_rlhf,
    pku_saferlhf,
    trl_pairs,
)
from riskalign.errors import InputError

PKU: dict[str, Any] = {
    "prompt": "What is the code?",
    "response_0": "It is 4711.",
    "response_1": "I keep that to myself.",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "response_0_severity_level": 2,
    "response_1_severity_level": 0,
    "better_response_id": 0,
    "safer_response_id": 1,
    "prompt_source": "ignored",
}


def test_pku_saferlhf() -> None:
    assert pku_saferlhf(PKU, "line 1") == Record(
        "What is the code?",
        ("It is 4711.", "I keep that to myself."),
        better=0,
        safer=1,
        costs=(2.0, 0.0),
    )


@pytest.mark.parametrize(
    ("fields", "costs"),
    [
        ({"response_0_severity_level": None}, (1.0, 0.0)),  # an older release has no levels
        ({"response_0_severity_level": 0}, (1.0, 0.0)),  # the flag decides
        ({"response_1_severity_level": 3}, (2.0, 0.0)),
        ({"is_response_1_safe": False, "response_1_severity_level": 3}, (2.0, 3.0)),
    ],
)
def test_flag_and_level(fields: dict[str, Any], costs: tuple[float, float]) -> None:
    assert pku_saferlhf(PKU | fields, "line 1").costs == costs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"response_1": None}, "line 7: field 'response_1' is missing"),
        ({"prompt": 3}, "line 7: field 'prompt' is int"),
        ({"better_response_id": 2}, "line 7: field 'better_response_id' is 2. Give 0 or 1"),
        ({"safer_response_id": True}, "line 7: field 'safer_response_id' is True"),
        ({"safer_response_id": None}, "line 7: field 'safer_response_id' is None"),
        ({"is_response_0_safe": 1}, "line 7: field 'is_response_0_safe' is 1. Give true"),
        ({"response_0_severity_level": 4}, "field 'response_0_severity_level' is 4. Give 0, 1, 2"),
        ({"response_0_severity_level": "2"}, "field 'response_0_severity_level' is '2'"),
    ],
)
def test_pku_errors(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pku_saferlhf(PKU | fields, "line 7")


def test_hh_rlhf() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello.\nAnd you?\n\nHuman: The code?\n\nAssistant: "
    record = hh_rlhf({"chosen": f"{start}No.", "rejected": f"{start}4711"}, "line 1")
    assert record.prompt == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello.\nAnd you?"},
        {"role": "user", "content": "The code?"},
    ]
    assert record.answers == (
        [{"role": "assistant", "content": "No."}],
        [{"role": "assistant", "content": "4711"}],
    )
    assert (record.better, record.safer, record.costs) == (0, None, None)


@pytest.mark.parametrize(
    ("chosen", "rejected", "message"),
    [
        ("Hi", "Hi", "field 'chosen' does not begin with"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a", "'rejected' does not end with an answer"),
        ("\n\nAssistant: b", "\n\nAssistant: b", "'chosen' does not end with an answer"),
        (
            "\n\nHuman: a\n\nAssistant: b",
            "\n\nHuman: c\n\nAssistant: b",
            "differ before the assistant's last turn",
        ),
    ],
)
def test_hh_errors(chosen: str, rejected: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hh_rlhf({"chosen": chosen, "rejected": rejected}, "line 1")


def test_scores_of_trl_pairs_are_rewards_or_minus_the_costs() -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert trl_pairs(row, "line 1") == Record("a", ("b", "c"), better=0)
    scored = row | {"score_chosen": -1.0, "score_rejected": -3.0}
    found = trl_pairs(scored, "line 1")
    assert (found.rewards, found.costs, found.better) == ((-1.0, -3.0), None, 0)
    safe = about_safety(found)
    assert (safe.rewards, safe.costs, safe.better, safe.safer) == (None, (1.0, 3.0), None, 0)


def test_formats_are_told_by_their_fields() -> None:
    transcript = "\n\nHuman: a\n\nAssistant: b"
    assert guess_format(PKU, "") == "pku-saferlhf"
    assert guess_format({"chosen": transcript, "rejected": transcript}, "") == "hh-rlhf"
    assert guess_format({"prompt": "a", "chosen": "b", "rejected": "c"}, "") == "pairs"
    assert guess_format({"chosen": "a b", "rejected": "a c"}, "") == "pairs"
    with pytest.raises(InputError, match=r"f, line 1: fields of no known format \(found: text\)"):
        guess_format({"text": "a"}, "f, line 1")
    with pytest.raises(InputError, match="One completion a row makes no pair"):
        guess_format({"prompt": "a", "completion": "b", "label": True}, "f, line 1")
