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

from riskalign.evaluation.judges.client import Message, Reply
from riskalign.evaluation.judges.prompts import Mode, repair

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
    if reply.refused:
        return Verdict("refused")
    if reply.too_long:
        return Verdict("too_long")
    text = reply.text.strip()
    found = _object(text)
    if found is None and (thought := _THOUGHT.match(text)):
        text = text[thought.end() :].strip()
        found = _object(text)
    key = "verdict" if mode == "pairwise" else "score"
    if found is not None and found.keys() == {key, "reason"} and isinstance(found["reason"], str):
        value = found[key]
        if mode == "pairwise" and value in ("A", "B", "tie"):
            return Verdict("read", value, found["reason"])
        if mode == "absolute" and type(value) is int and 1 <= value <= 10:
            return Verdict("read", value, found["reason"])
    return Verdict("refused" if found is None and _REFUSAL.match(text) else "unparsed")


def settle(
    mode: Mode, messages: tuple[Message, ...], reply_to: Callable[[tuple[Message, ...]], Reply]
) -> tuple[Verdict, list[Reply]]:
    """Ask, and where the reply cannot be read, ask once more; the verdict and the replies."""
    first = reply_to(messages)
    verdict = read_verdict(mode, first)
    if verdict.state != "unparsed":
        return verdict, [first]
    second = reply_to(repair(mode, messages, first.text))
    return read_verdict(mode, second), [first, second]


class _TwiceError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError  # which of two verdicts would hold?
    return found


def _object(text: str) -> dict[str, Any] | None:
    block = _BLOCK.fullmatch(text)
    try:
        found = json.loads(block[1] if block else text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
