"""Prompts and responses as a tokenizer's chat template writes them.

What a template writes around a content is read off with a mark in its place, which no text has, so
that an answer that is also part of the template's own text is not mistaken for it. What it makes of
a message's further fields is checked in the same way (`template.py`).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from riskalign.data.fields import Message, dense, said_fields
from riskalign.data.template import Template, key_of, with_marks
from riskalign.errors import InputError

#: Roles of the turns that a model writes itself.
OWN_ROLES = ("assistant", "model")

_OPENED = re.compile(r"(<\w+>|\[\w+\])\s*$")
_CLOSED = re.compile(r"(</\w+>|\[/\w+\])\s*$")


def render_chat(
    prompt: list[Message],
    responses: Sequence[list[Message]],
    tokenizer: PreTrainedTokenizerBase,
    given: Mapping[str, Any] | None = None,
) -> tuple[str, list[str]]:
    """Render a prompt and its responses with the tokenizer's chat template, as text.

    The prompt is what the model is asked with: with the opening of its turn, or to be continued
    where it ends in an answer; without any message, what the template writes before an answer.
    A response is what the template adds to that, if all of its content is in there. Where the
    template writes another opening once an answer follows, or leaves part of the answer out (some
    reasoning models), it is the content and what the template writes behind it, without what the
    opening has already. Calls and reasoning in fields of their own are in there as the template
    writes them, `given` what the row has for it (`given_fields`).

    Raises `InputError`: the tokenizer has no chat template, the template refuses the messages or
    leaves out what a field says, a response has turns that are not the model's, or its place in the
    text is not to be found.
    """
    if tokenizer.chat_template is None:
        raise InputError(
            "The data holds messages but the tokenizer has no chat template. Set "
            "tokenizer.chat_template, or give 'prompt', 'chosen' and 'rejected' as text."
        )
    for response in responses:
        _check_response(response)
    template = Template(tokenizer, given or {})
    template.check_messages(prompt)
    key = key_of(prompt, *responses)
    end = f"{key}p"
    rendered, opening, marked = "", "", prompt
    if prompt:
        last = prompt[-1]
        answering = last["role"] in OWN_ROLES
        if answering and last.get("tool_calls"):
            raise InputError(
                "the prompt ends in 'tool_calls', which no answer continues. Give what the tools "
                "answered as a 'tool' turn, or the calls as the response."
            )
        how = {"continue_final_message" if answering else "add_generation_prompt": True}
        marked = [*prompt[:-1], {**last, "content": last["content"] + end}]
        rendered, asked = template.write_all([prompt, marked], **how)
        opening = asked.rpartition(end)[2]
        if end not in asked or not rendered.endswith(opening):
            raise template.not_shown("the end of the prompt's last message")
    template.check_tools(prompt, key)

    def all_behind(many: Sequence[list[Message]]) -> list[str]:
        """What the template writes behind the prompt's last content, with each of these turns."""
        texts = template.write_all([marked + turns for turns in many])
        return [text.rpartition(end)[2] for text in texts] if prompt else texts

    # Answers of the same roles have their contents in the same places.
    roles = [tuple(message["role"] for message in response) for response in responses]
    marks_of = {own: _marks(key, response) for own, response in zip(roles, responses, strict=True)}
    blanks = [
        [{"role": role, "content": mark} for role, mark in zip(own, marks, strict=True)]
        for own, marks in marks_of.items()
    ]
    found = all_behind([*blanks, *responses])
    around_of = dict(zip(marks_of, found, strict=False))
    texts = []
    for own, response, told in zip(roles, responses, found[len(blanks) :], strict=True):
        marks = marks_of[own]
        pieces = _between(around_of[own], marks)
        if pieces is None:
            raise template.not_shown("an answer's content")
        lead, *gaps, after = pieces
        if not prompt:
            rendered = opening = lead
        if said_fields(response[0]):
            turn, fields = with_marks(response[0], key)
            template.check_marks(turn, fields, *all_behind([[turn]]))
            # No mark stands for an empty content: templates tell turns that only call from others.
            if response[0]["content"].strip():
                [around] = all_behind([[{**response[0], "content": marks[0]}]])
                parts = _between(around, marks)
                if parts is None or dense(told) != dense(response[0]["content"].join(parts)):
                    raise template.left_out("content")
            text = _with_fields(opening, told, lead)
        else:
            contents = [message["content"] for message in response]
            said = contents[0] + "".join(a + b for a, b in zip(gaps, contents[1:], strict=True))
            text = _of_content(opening, told, lead, said, after)
        if text is None:
            raise template.not_shown("where the answer continues the prompt")
        texts.append(text)
    return rendered, texts


def between_turns(
    prompt: list[Message],
    response: list[Message],
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    given: Mapping[str, Any] | None = None,
) -> list[tuple[int, int]]:
    """Where a response's `text` of `render_chat` is the template's own, between contents of turns.

    Raises `InputError`: the template does not show it.
    """
    if len(response) < 2:
        return []
    template = Template(tokenizer, given or {})
    marks = _marks(key_of(prompt, response), response)
    blank = [{**m, "content": mark} for m, mark in zip(response, marks, strict=True)]
    pieces = _between(template.write(prompt + blank), marks)
    assert pieces is not None  # `render_chat` has found them
    _, *gaps, after = pieces
    at = len(text) - len(after) if text.endswith(after) else -1
    spans = []
    for message, gap in zip(response[:0:-1], gaps[::-1], strict=True):
        contents = (message["content"], message["content"].strip())
        said = next((c for c in contents if at >= 0 and text[:at].endswith(gap + c)), None)
        if said is None:
            raise template.not_shown("where one turn of a response ends and the next begins")
        at -= len(said)
        spans.append((at - len(gap), at))
        at -= len(gap)
    return spans[::-1]


def _check_response(response: list[Message]) -> None:
    """Refuse turns that are not the model's, for all of a response is trained on."""
    remedy = "Give what comes before the model's last turn as 'prompt', the same for all responses."
    other = next((m["role"] for m in response if m["role"] not in OWN_ROLES), None)
    if other is not None or not response:
        raise InputError(
            f"a response has a turn of role {other!r}, and all of a response is trained on. "
            f"{remedy}"
        )
    fields = [field for message in response for field in said_fields(message)]
    if len(response) > 1 and fields:
        raise InputError(f"a response of several turns has '{fields[0]}'. {remedy}")


def _with_fields(opening: str, told: str, lead: str) -> str | None:
    """The text of a response with further fields behind a prompt's opening; None if not shown.

    Args:
        opening: what the template writes behind the prompt to ask for an answer.
        told: what it writes there with the answer.
        lead: what it writes there before a content without further fields.
    """
    added = _behind(opening, told)
    if added is not None:
        return added
    if not (opening.startswith(lead) and told.startswith(lead)):
        return None
    if _closes_again(opening, told[len(lead) :]):
        return None
    return _without(opening[len(lead) :], told[len(lead) :])


def _of_content(opening: str, told: str, lead: str, said: str, after: str) -> str | None:
    """As `_with_fields`, of a response that is `said`, its content, with `after` behind it."""
    added = _behind(opening, told)
    opened = _OPENED.search(opening)
    begun = opened[0] if opened else ""
    if added is not None and dense(begun + added).endswith(dense(said + after)):
        return added
    if _closes_again(opening, said):
        return None
    if opening.startswith(lead):
        return _without(opening[len(lead) :], said) + after
    more = _behind(opening, lead)
    if more is None or not _closes_again(more, said):
        return None if more is None else more + said + after
    # An empty block stands there in the place of what is said to be in it.
    space = more[: len(more) - len(more.lstrip())]
    return (_without(begun, said) if begun else space + said) + after


def _closes_again(opening: str, said: str) -> bool:
    """Whether an opening closes a block that what is said would close again."""
    closed = _CLOSED.search(opening)
    return closed is not None and closed[1] in said


def _behind(opening: str, text: str) -> str | None:
    """What a text that begins with the opening has behind it; white space at its end may differ."""
    if text.startswith(opening):
        return text[len(opening) :]
    bare = opening.rstrip()
    return text[len(bare) :].lstrip() if bare and text.startswith(bare) else None


def _without(opened: str, said: str) -> str:
    """What is said behind what is opened already, which it may begin with once more."""
    if said.startswith(opened):
        return said[len(opened) :]
    bare = opened.strip()
    if bare and said.lstrip().startswith(bare):
        return said.lstrip()[len(bare) :].lstrip()
    return said


def _marks(key: str, turns: list[Message]) -> list[str]:
    return [f"{key}a{i}z" for i in range(len(turns))]


def _between(text: str, marks: list[str]) -> list[str] | None:
    """The text before, between and behind marks that come once each, in their order; else None."""
    pieces = []
    for mark in marks:
        if text.count(mark) != 1:
            return None
        before, _, text = text.partition(mark)
        pieces.append(before)
    return [*pieces, text]
