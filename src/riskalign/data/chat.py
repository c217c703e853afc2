"""Prompts and responses as a tokenizer's chat template writes them.

What a template writes around a content is read off with a mark in its place, which no text has, so
that an answer that is also part of the template's own text is not mistaken for it.
"""

import hashlib
import json
import re
from typing import Any

from transformers import PreTrainedTokenizerBase

from riskalign.data.schema import Message
from riskalign.errors import InputError

#: Roles of the turns that a model writes itself.
OWN_ROLES = ("assistant", "model")

_OPENED = re.compile(r"(<\w+>|\[\w+\])\s*$")
_CLOSED = re.compile(r"(</\w+>|\[/\w+\])\s*$")


def render_chat(
    prompt: list[Message],
    responses: tuple[list[Message], ...],
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[str, list[str]]:
    """Render a prompt and its responses with the tokenizer's chat template, as text.

    The prompt is what the model is asked with: with the opening of its turn, or to be continued
    where it ends in an answer; without any message, what the template writes before an answer.
    A response is what the template adds to that, if all of its content is in there. Where the
    template writes another opening once an answer follows, or leaves part of the answer out (some
    reasoning models), it is the content and what the template writes behind it, without what the
    opening has already.

    Raises:
        InputError: the tokenizer has no chat template, the template refuses the messages, a
            response has turns that are not the model's, or its place in the text is not to be
            found.
    """
    if tokenizer.chat_template is None:
        raise InputError(
            "The data holds messages but the tokenizer has no chat template. Set "
            "tokenizer.chat_template, or give 'prompt', 'chosen' and 'rejected' as text."
        )
    for response in responses:
        _check_own(response)
    key = hashlib.sha256(json.dumps([prompt, *responses]).encode()).hexdigest()[:16]
    end = f"{key}p"
    rendered, opening, marked = "", "", prompt
    if prompt:
        answering = prompt[-1]["role"] in OWN_ROLES
        how = {"continue_final_message" if answering else "add_generation_prompt": True}
        marked = [*prompt[:-1], {**prompt[-1], "content": prompt[-1]["content"] + end}]
        rendered = _apply_template(tokenizer, prompt, **how)
        asked = _apply_template(tokenizer, marked, **how)
        opening = asked.rpartition(end)[2]
        if end not in asked or not rendered.endswith(opening):
            raise _not_found(tokenizer, "the end of the prompt's last message")
    texts = []
    for response in responses:
        marks = [f"{key}a{i}z" for i in range(len(response))]
        blank = [{**m, "content": mark} for m, mark in zip(response, marks, strict=True)]
        framed, told = (
            _apply_template(tokenizer, marked + turns).rpartition(end)[2]
            if prompt
            else _apply_template(tokenizer, turns)
            for turns in (blank, response)
        )
        pieces = _between(framed, marks)
        if pieces is None:
            raise _not_found(tokenizer, "an answer's content")
        lead, *gaps, after = pieces
        if not prompt:
            rendered = opening = lead
        contents = [message["content"] for message in response]
        said = contents[0] + "".join(a + b for a, b in zip(gaps, contents[1:], strict=True))
        text = _response(opening, told, lead, said, after)
        if text is None:
            raise _not_found(tokenizer, "where the answer continues the prompt")
        texts.append(text)
    return rendered, texts


def _check_own(response: list[Message]) -> None:
    """Refuse a response with turns that are not the model's, for all of it is trained on."""
    other = next((m["role"] for m in response if m["role"] not in OWN_ROLES), None)
    if other is not None or not response:
        raise InputError(
            f"a response has a turn of role {other!r}, and all of a response is trained on. Give "
            "what comes before the model's last turn as 'prompt', the same for all responses."
        )


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


def _not_found(tokenizer: PreTrainedTokenizerBase, what: str) -> InputError:
    return InputError(
        f"the chat template of {_name(tokenizer)} does not show {what}, so that what to train "
        "on is not known. Give 'prompt', 'chosen' and 'rejected' as text, or another chat template."
    )


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return repr(tokenizer.name_or_path) if tokenizer.name_or_path else "the tokenizer"


def _apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], **options: Any
) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except Exception as error:  # templates are programs; jinja raises what they raise
        roles = ", ".join(message["role"] for message in messages)
        raise InputError(
            f"The tokenizer's chat template refuses messages with roles ({roles}): {error}"
        ) from error
