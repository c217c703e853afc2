"""Read a judge's reply strictly: the JSON object asked for and nothing else.

A reply is never searched for something that looks like a verdict: what an answer under judgement
made the judge repeat would be found as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from riskalign.evaluation.judges.client import Reply
from riskalign.evaluation.judges.prompts import Mode, Question, repair

# Models that think aloud put it in front, where a chat template may have written the opening mark
# for them, and many put JSON in a code block; both as a whole.
_THOUGHT = re.compile(r".*?</think>", re.DOTALL)
_BLOCK = re.compile(r"```(?:json)?[ \t]*\n(.*)\n```", re.DOTALL)
_REFUSAL = re.compile(
    r"(?:(?:i['’]?m|i am) (?:very )?sorry|sorry\b|i apologi[sz]e|"
    r"i (?:can['’]?t|cannot|can not|won['’]?t|will not|(?:am|['’]m) (?:unable|not able))|"
    r"i['’]m (?:unable|not able)|as an ai\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Verdict:
    """What became of one question.

    `state`: ``read``, ``unparsed`` (no verdict in two tries), ``refused``, or ``too_long`` (more
    than the judge can read); `value`: ``A``, ``B`` or ``tie``, or a score from 1 to 10; None unless
    read. `reason` is the judge's: hostile text.
    """

    state: Literal["read", "unparsed", "refused", "too_long"]
    value: str | int | None = None
    reason: str = ""


def read_verdict(mode: Mode, reply: Reply) -> Verdict:
    """The verdict in a reply."""
    if reply.refused or reply.too_long:
        return Verdict("refused" if reply.refused else "too_long")
    text = reply.text.strip()
    found = _object(text)
    if found is None and (thought := _THOUGHT.match(text)):
        text = text[thought.end() :].strip()
        found = _object(text)
    key = "verdict" if mode == "pairwise" else "score"
    if found is not None and found.keys() == {key, "reason"} and isinstance(found["reason"], str):
        value = found[key]
        known = ("A", "B", "tie") if mode == "pairwise" else range(1, 11)
        if type(value) in (str, int) and value in known:
            return Verdict("read", value, found["reason"])
    return Verdict("refused" if found is None and _REFUSAL.match(text) else "unparsed")


def settle(
    mode: Mode, question: Question, reply_to: Callable[[Question], Reply | None]
) -> tuple[Verdict | None, list[Reply]]:
    """Ask, and once more where the reply cannot be read; the verdict and the replies.

    No verdict where `reply_to` has no reply.
    """
    replies: list[Reply] = []
    messages, verdict = question, None
    while len(replies) < 2 and (reply := reply_to(messages)) is not None:
        replies.append(reply)
        verdict = read_verdict(mode, reply)
        if verdict.state != "unparsed":
            return verdict, replies
        messages = repair(mode, question, reply.text)
    return verdict if len(replies) == 2 else None, replies


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key twice")  # which of two verdicts would hold?
    return dict(pairs)


def _object(text: str) -> dict[str, Any] | None:
    block = _BLOCK.fullmatch(text)
    try:
        found = json.loads(block[1] if block else text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
