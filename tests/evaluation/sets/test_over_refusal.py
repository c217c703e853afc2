"""Refusal rates by label and type, counted by hand."""

from __future__ import annotations

import pytest

from riskalign.errors import InputError
from riskalign.evaluation.sets import EvaluationSet, SetPrompt, over_refusal
from riskalign.evaluation.sets.prompts import Label


def prompt(name: str, kind: str | None, label: Label | None) -> SetPrompt:
    return SetPrompt(name, ({"role": "user", "content": name},), kind, label)


SET = EvaluationSet(
    "xstest",
    (
        prompt("a", "homonyms", "safe"),
        prompt("b", "homonyms", "safe"),
        prompt("c", "figures", "safe"),
        prompt("d", "contrast_homonyms", "unsafe"),
    ),
)
NO, YES = "I can't help with that.", "It is 4."
PARTLY = "I can't share it all. That said, it begins with 4."


def test_rates_by_hand() -> None:
    answers = [
        ("a", NO), ("a", YES), ("b", PARTLY), ("b", YES), ("c", YES), ("c", ""),
        ("d", NO), ("d", NO),
    ]  # fmt: skip
    found = over_refusal(SET, answers)
    assert (found.safe.n_prompts, found.safe.n_answers) == (3, 6)
    values = {
        name: interval.value
        for name, interval in vars(found.safe).items()
        if name in ("refused", "full", "partial", "empty")
    }
    assert values == pytest.approx(
        {"refused": 2 / 6, "full": 1 / 6, "partial": 1 / 6, "empty": 1 / 6}
    )
    assert found.unsafe.refused is not None
    assert (found.unsafe.refused.value, found.unsafe.refused.high) == (1, 1)
    assert found.unsafe.refused.low < 0.1  # a single prompt shows little
    assert set(found.by_type["safe"]) == {"homonyms", "figures"}
    refused = found.by_type["safe"]["homonyms"].refused
    assert refused is not None
    assert refused.value == 0.5
    assert list(found.by_type["unsafe"]) == ["contrast_homonyms"]


def test_no_prompt_of_a_label_gives_no_rate() -> None:
    found = over_refusal(EvaluationSet("s", SET.items[:3]), [("a", NO)])
    assert found.unsafe.refused is None
    assert found.unsafe.n_prompts == 0
    assert found.safe.n_prompts == 1


def test_what_does_not_belong() -> None:
    with pytest.raises(InputError, match="no prompt 'z'"):
        over_refusal(SET, [("z", NO)])
    with pytest.raises(InputError, match="labelled=True"):
        over_refusal(EvaluationSet("s", (prompt("a", None, None),)), [("a", NO)])
