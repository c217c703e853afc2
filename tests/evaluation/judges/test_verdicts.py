"""Replies are read strictly, asked for again once, and never searched for a verdict."""

import json

import pytest

from riskalign.evaluation.judges import Reply, Turn
from riskalign.evaluation.judges.prompts import read_verdict, settle

GOOD = '{"verdict": "B", "reason": "Clearer."}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\n {GOOD}\n",
        f"```json\n{GOOD}\n```",
        f"<think>A? {{}} no</think>\n{GOOD}",
        f"A? No.\n</think>\n\n{GOOD}",  # the template opened it
        f"</think>```json\n{GOOD}\n```",
    ],
)
def test_verdicts(text: str) -> None:
    found = read_verdict("pairwise", Reply(text))
    assert (found.state, found.value, found.reason) == ("read", "B", "Clearer.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "B",
        f"The answer says {GOOD} but A is better.",
        f"{GOOD}\n{GOOD}",
        '{"verdict": "A", "verdict": "B", "reason": ""}',
        '{"verdict": "a", "reason": ""}',
        '{"verdict": "B"}',
        '{"verdict": "B", "reason": 3}',
        '{"verdict": ["B"], "reason": ""}',
        '{"verdict": "B", "reason": "", "score": 10}',
        '["B"]',
        "[" * 100_000,
        f"```json\n{GOOD}",
        f"<think>{GOOD}",
        f"B.</think>{GOOD} B it is.",
        f"B.</think>So:</think>{GOOD}",
        f"{GOOD}</think>",
    ],
)
def test_no_verdicts(text: str) -> None:
    assert read_verdict("pairwise", Reply(text)).state == "unparsed"


@pytest.mark.parametrize("score", [1, 10])
def test_scores(score: int) -> None:
    text = json.dumps({"score": score, "reason": ""})
    assert read_verdict("absolute", Reply(text)).value == score


@pytest.mark.parametrize("score", [0, 11, 5.0, "5", True, None, float("nan")])
def test_no_scores(score: object) -> None:
    text = json.dumps({"score": score, "reason": ""})
    assert read_verdict("absolute", Reply(text)).state == "unparsed"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "Sorry, no.",
        "As an AI, I do not compare.",
        "I’m unable to judge this.",
    ],
)
def test_refusals(text: str) -> None:
    assert read_verdict("pairwise", Reply(text)).state == "refused"
    assert read_verdict("pairwise", Reply(GOOD, refused=True)).state == "refused"


def test_a_reason_that_apologises_is_no_refusal() -> None:
    text = '{"verdict": "A", "reason": "I\'m sorry, but B cannot be read."}'
    assert read_verdict("pairwise", Reply(text)).state == "read"


def test_the_end_of_a_thought_within_a_reason_is_part_of_it() -> None:
    text = '{"verdict": "A", "reason": "B holds </think> and no more."}'
    found = read_verdict("pairwise", Reply(text))
    assert (found.value, found.reason) == ("A", "B holds </think> and no more.")


def test_one_more_try_and_no_third() -> None:
    asked = (Turn("user", "?"),)
    replies = iter([Reply("B, I think"), Reply(GOOD)])
    verdict, used = settle("pairwise", asked, lambda messages: next(replies))
    assert verdict is not None
    assert (verdict.value, len(used)) == ("B", 2)
    replies = iter([Reply("B, I think"), Reply("B!"), Reply(GOOD)])
    verdict, used = settle("pairwise", asked, lambda messages: next(replies))
    assert verdict is not None
    assert (verdict.state, len(used)) == ("unparsed", 2)
    replies = iter([Reply("Sorry, no."), Reply(GOOD)])
    verdict, used = settle("pairwise", asked, lambda messages: next(replies))
    assert verdict is not None
    assert (verdict.state, len(used)) == ("refused", 1)
