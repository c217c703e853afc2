"""Prompts and responses as a tokenizer's chat template writes them.

What a template writes around a content is read off with a mark in its place, which no text has, so
that an answer that is also part of the template's own text is not mistaken for it. What it makes of
a message's further fields is checked in the same way (`written.py`).
"""

import re
from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from riskalign.data.fields import Rendering, said_fields
from riskalign.data.schema import Message
from riskalign.data.written import (
    apply_template,
    check_messages,
    check_response,
    check_tools,
    key_of,
    left_out,
    not_found,
    template_options,
)
from riskalign.errors import InputError

#: Roles of the turns that a model writes itself.
OWN_ROLES = ("assistant", "model")

_OPENED = re.compile(r"(<\w+>|\[\w+\])\s*$")
_CLOSED = re.compile(r"(</\w+>|\[/\w+\])\s*$")


def render_chat(
    prompt: list[Message],
    responses: tuple[list[Message], ...],
    tokenizer: PreTrainedTokenizerBase,
    rendering: Rendering | None = None,
) -> tuple[str, list[str]]:
    """Render a prompt and its responses with the tokenizer's chat template, as text.

    The prompt is what the model is asked with: with the opening of its turn, or to be continued
    where it ends in an answer; without any message, what the template writes before an answer.
    A response is what the template adds to that, if all of its content is in there. Where the
    template writes another opening once an answer follows, or leaves part of the answer out (some
    reasoning models), it is the content and what the template writes behind it, without what the
    opening has already. Calls and reasoning in fields of their own are in there as the template
    writes them, given what the row's `rendering` has for it.

    Raises:
        InputError: the tokenizer has no chat template, the template refuses the messages or leaves
            out what a field says, a response has turns that are not the model's, or its place in
            the text is not to be found.
    """
    if tokenizer.chat_template is None:
        raise InputError(
            "The data holds messages but the tokenizer has no chat template. Set "
            "tokenizer.chat_template, or give 'prompt', 'chosen' and 'rejected' as text."
        )
    for response in responses:
        _check_own(response)
    options = template_options(rendering or {}, tokenizer)
    check_messages(prompt, tokenizer, options)
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
        rendered = apply_template(tokenizer, prompt, **options, **how)
        asked = apply_template(tokenizer, marked, **options, **how)
        opening = asked.rpartition(end)[2]
        if end not in asked or not rendered.endswith(opening):
            raise not_found(tokenizer, "the end of the prompt's last message")
    check_tools(prompt, tokenizer, options, key)

    def behind(turns: list[Message]) -> str:
        text = apply_template(tokenizer, marked + turns, **options)
        return text.rpartition(end)[2] if prompt else text

    texts = []
    for response in responses:
        marks = [f"{key}a{i}z" for i in range(len(response))]
        blank = [
            {"role": m["role"], "content": mark} for m, mark in zip(response, marks, strict=True)
        ]
        pieces = _between(behind(blank), marks)
        if pieces is None:
            raise not_found(tokenizer, "an answer's content")
        lead, *gaps, after = pieces
        if not prompt:
            rendered = opening = lead
        told = behind(response)
        contents = [message["content"] for message in response]
        if any(said_fields(message) for message in response):
            check_response(response[0], behind, tokenizer, key)
            if not _content_is_whole(response[0], told, behind, marks[0]):
                raise left_out(tokenizer, "content")
            text = _with_fields(opening, told, lead)
        else:
            said = contents[0] + "".join(a + b for a, b in zip(gaps, contents[1:], strict=True))
            text = _response(opening, told, lead, said, after)
        if text is None:
            raise not_found(tokenizer, "where the answer continues the prompt")
        texts.append(text)
    return rendered, texts


def between_turns(
    prompt: list[Message],
    response: list[Message],
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    rendering: Rendering | None = None,
) -> list[tuple[int, int]]:
    """Where a response's `text` of `render_chat` is the template's own, between contents of turns.

    Raises:
        InputError: the template does not show it.
    """
    if len(response) < 2:
        return []
    key = key_of(prompt, response)
    marks = [f"{key}a{i}z" for i in range(len(response))]
    blank = [{**m, "content": mark} for m, mark in zip(response, marks, strict=True)]
    options = template_options(rendering or {}, tokenizer)
    pieces = _between(apply_template(tokenizer, prompt + blank, **options), marks)
    assert pieces is not None  # `render_chat` has found them
    _, *gaps, after = pieces
    at = len(text) - len(after) if text.endswith(after) else -1
    spans = []
    for message, gap in zip(response[:0:-1], gaps[::-1], strict=True):
        contents = (message["content"], message["content"].strip())
        said = next((c for c in contents if at >= 0 and text[:at].endswith(gap + c)), None)
        if said is None:
            raise not_found(tokenizer, "where one turn of a response ends and the next begins")
        at -= len(said)
        spans.append((at - len(gap), at))
        at -= len(gap)
    return spans[::-1]


def _check_own(response: list[Message]) -> None:
    """Refuse a response with turns that are not the model's, for all of it is trained on."""
    other = next((m["role"] for m in response if m["role"] not in OWN_ROLES), None)
    if other is not None or not response:
        raise InputError(
            f"a response has a turn of role {other!r}, and all of a response is trained on. Give "
            "what comes before the model's last turn as 'prompt', the same for all responses."
        )
    fields = [field for message in response for field in said_fields(message)]
    if len(response) > 1 and fields:
        raise InputError(
            f"a response of several turns has '{fields[0]}'. Give what comes before the model's "
            "last turn as 'prompt', the same for all responses."
        )


def _content_is_whole(
    turn: Message, told: str, behind: Callable[[list[Message]], str], mark: str
) -> bool:
    """Whether all of a turn's content is written beside its fields, once."""
    if not turn["content"].strip():
        return True  # no mark stands for it, for templates tell turns that only call from others
    pieces = _between(behind([{**turn, "content": mark}]), [mark])
    return pieces is not None and _dense(told) == _dense(turn["content"].join(pieces))


def _with_fields(opening: str, told: str, lead: str) -> str | None:
    """What is told behind a prompt's opening; None if that is not to be said.

    Args:
        opening: what the template writes behind the prompt to ask for an answer.
        told: what it writes there with the answer.
        lead: what it writes there before a content without further fields.
    """
    found = _behind(opening, told)
    if found is not None:
        return found
    if not (opening.startswith(lead) and told.startswith(lead)):
        return None
    closed = _CLOSED.search(opening)
    if closed and closed[1] in told[len(lead) :]:
        return None  # it closes what the answer would close again
    return _without(opening[len(lead) :], told[len(lead) :])


def _response(opening: str, told: str, lead: str, said: str, after: str) -> str | None:
    """The text of a response behind a prompt's opening; None if that is not to be said.

    Args:
        opening: what the template writes behind the prompt to ask for an answer.
        told: what it writes there with the answer.
        lead: of that, what stands before the content.
        said: the content.
        after: what stands behind it.
    """
    found = _behind(opening, told)
    opened = _OPENED.search(opening)
    begun = opened[0] if opened else ""
    if found is not None and _dense(begun + found).endswith(_dense(said + after)):
        return found
    closed = _CLOSED.search(opening)
    if closed and closed[1] in said:
        return None  # it closes what the answer would close again
    if opening.startswith(lead):
        return _without(opening[len(lead) :], said) + after
    more = _behind(opening, lead)
    if more is None:
        return None
    closed = _CLOSED.search(more)
    if not (closed and closed[1] in said):
        return more + said + after
    # An empty block stands there in the place of what is said to be in it.
    space = more[: len(more) - len(more.lstrip())]
    return (_without(begun, said) if begun else space + said) + after


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


def _dense(text: str) -> str:
    return "".join(text.split())


def _between(text: str, marks: list[str]) -> list[str] | None:
    """The text before, between and behind marks that come once each, in their order; else None."""
    pieces = []
    for mark in marks:
        if text.count(mark) != 1:
            return None
        before, _, text = text.partition(mark)
        pieces.append(before)
    return [*pieces, text]
