"""What a chat template writes, and that it leaves out nothing of what fields of messages say."""

import contextlib
import hashlib
import inspect
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from riskalign.data.fields import (
    NAMES,
    REASONING,
    Rendering,
    marked_tools,
    with_marks,
)
from riskalign.errors import InputError

_OWN_ARGUMENTS = frozenset(
    inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
) - {"documents", "kwargs"}

logger = logging.getLogger(__name__)

_LARGEST = 1_000_000  # characters of a template
_LINES = 5_000_000
_ENDED: set[str] = set()  # templates that came to an end within these


def apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], **options: Any
) -> str:
    """Messages as the chat template writes them; `InputError` with its words if it refuses."""
    chat: Any = list(messages)
    template = str(tokenizer.chat_template)
    if len(template) > _LARGEST:
        raise InputError(
            f"the chat template of {named(tokenizer)} has {len(template)} characters, more than "
            f"{_LARGEST}. Give a shorter one."
        )
    # Counting takes time, and a template that ended once has no loop without an end.
    count = contextlib.nullcontext() if template in _ENDED else _counted_lines()
    try:
        with count:
            text = str(tokenizer.apply_chat_template(chat, tokenize=False, **options))
    except Exception as error:  # templates are programs; jinja raises what they raise
        roles = ", ".join(message["role"] for message in messages)
        raise InputError(
            f"The chat template of {named(tokenizer)} refuses messages with roles ({roles}): "
            f"{type(error).__name__}: {error}. Give another chat template, or other roles."
        ) from error
    _ENDED.add(template)
    return text


@contextlib.contextmanager
def _counted_lines() -> Iterator[None]:
    """Raise `TimeoutError` in the block once it has run `_LINES` lines of Python."""
    left = _LINES

    def count(*_: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise TimeoutError("its loops take too long")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)


def template_options(rendering: Rendering, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What `apply_template` is given of a row beside its messages.

    Raises:
        InputError: an argument that the template does not know, or that is not the row's to set.
    """
    more = dict(rendering.get("chat_template_kwargs", {}))
    tools = rendering.get("tools")
    template = tokenizer.get_chat_template(tools=tools)
    for name in more:
        if name in _OWN_ARGUMENTS:
            raise InputError(
                f"field 'chat_template_kwargs': {name!r} is not a row's to set. Drop it."
            )
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise InputError(
                f"field 'chat_template_kwargs': the chat template of {named(tokenizer)} knows no "
                f"{name!r}. Drop it, or give another chat template."
            )
    return {"tools": tools, **more} if tools else more


def check_tools(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    options: Mapping[str, Any],
    key: str,
) -> None:
    """Refuse a template that does not write the name of every tool."""
    if "tools" in options and messages:
        tools, marks = marked_tools(options["tools"], key)
        text = apply_template(tokenizer, messages, **{**options, "tools": tools})
        if not all(mark in text for mark in marks):
            raise left_out(tokenizer, "tools")


def check_messages(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    options: Mapping[str, Any],
) -> None:
    """Refuse a template that does not write what a message's fields say where it comes last.

    What it leaves out once other messages follow, as many do with reasoning, it leaves out when
    the model is asked as well; so are names and ids. Of both there is a warning, once.
    """
    key = key_of(messages)
    for i, message in enumerate(messages):
        marked, marks = with_marks(message, key)
        if (marks or message["role"] == "tool") and message.get("content"):
            marks["content"] = [f"{key}content"]
            marked["content"] = f"{message['content']}{key}content"
        if marks:
            own = apply_template(tokenizer, [*messages[:i], marked], **options)
            _check(marked, marks, own, tokenizer)
            whole = apply_template(
                tokenizer, [*messages[:i], marked, *messages[i + 1 :]], **options
            )
            for field in REASONING:
                if not all(mark in whole for mark in marks.get(field, ())):
                    _say_left_out(field, named(tokenizer), str(tokenizer.chat_template))
        for field in NAMES:
            if field in message:
                without = [{k: v for k, v in m.items() if k != field} for m in messages]
                if _or_error(tokenizer, messages, options) == _or_error(
                    tokenizer, without, options
                ):
                    _say_left_out(field, named(tokenizer), str(tokenizer.chat_template))


def check_response(
    turn: Mapping[str, Any],
    behind: Callable[[list[dict[str, Any]]], str],
    tokenizer: PreTrainedTokenizerBase,
    key: str,
) -> None:
    """Refuse a template that does not write what an answer's fields say behind its prompt."""
    marked, marks = with_marks(turn, key)
    _check(marked, marks, behind([marked]), tokenizer)


def key_of(*messages: Any) -> str:
    """Letters and digits that are in none of the messages."""
    return "k" + hashlib.sha256(json.dumps(messages).encode()).hexdigest()[:16]


def not_found(tokenizer: PreTrainedTokenizerBase, what: str) -> InputError:
    """Of a place that a template does not show."""
    return InputError(
        f"the chat template of {named(tokenizer)} does not show {what}, so that what to train "
        "on is not known. Give 'prompt', 'chosen' and 'rejected' as text, or another chat template."
    )


def named(tokenizer: PreTrainedTokenizerBase) -> str:
    """A tokenizer's name, for errors."""
    return repr(tokenizer.name_or_path) if tokenizer.name_or_path else "the tokenizer"


def _check(
    marked: Mapping[str, Any],
    marks: Mapping[str, Sequence[str]],
    text: str,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    for field, own in marks.items():
        if not all(mark in text for mark in own):
            raise left_out(tokenizer, field)
    for call in marked.get("tool_calls", ()):
        given = call.get("function", call).get("arguments")
        quoted = isinstance(given, str) and '"' in given and json.dumps(given)[1:-1] in text
        if quoted or (given and not isinstance(given, str) and repr(given) in text):
            raise InputError(
                f"the chat template of {named(tokenizer)} writes a call's 'arguments' as "
                + ("quoted text. Give an object." if quoted else "Python does. Give JSON text.")
            )


def left_out(tokenizer: PreTrainedTokenizerBase, field: str) -> InputError:
    """Of a field that a template does not write."""
    return InputError(
        f"the chat template of {named(tokenizer)} leaves out what '{field}' says. Give a template "
        "that writes it, write it into 'content', or drop the field."
    )


def _or_error(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
) -> str:
    try:
        return apply_template(tokenizer, messages, **options)
    except InputError as error:
        return str(error)


@lru_cache(maxsize=64)
def _say_left_out(field: str, name: str, template: str) -> None:
    logger.warning(
        "The chat template of %s does not write '%s' of earlier messages. Training follows it.",
        name,
        field,
    )
