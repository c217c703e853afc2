"""A chat template as it writes messages, and that it leaves out nothing of what their fields say.

What a field says is checked with a mark in its place, which no text has.
"""

import contextlib
import hashlib
import inspect
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from riskalign.data.fields import (
    NAMES,
    REASONING,
    Message,
    function_of,
    is_marked_up,
    said_fields,
)
from riskalign.errors import InputError

#: Arguments of `apply_chat_template`, and of the template that it sets, which no row may.
_OWN_ARGUMENTS = {
    *inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters,
    *("messages", "conversations"),
} - {"documents", "kwargs"}

logger = logging.getLogger(__name__)

Messages = Sequence[Message]

_LARGEST = 1_000_000  # characters of a template
_LINES = 5_000_000
_ENDED: set[str] = set()  # templates that came to an end within these


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


@dataclass(frozen=True)
class Template:
    """A tokenizer's chat template, with what a row gives it beside the messages.

    Raises:
        InputError: an argument that the template does not know, or that is not the row's to set.
    """

    tokenizer: PreTrainedTokenizerBase
    given: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Check the arguments."""
        text = self.tokenizer.get_chat_template(tools=self.given.get("tools"))
        for name in self.given.get("chat_template_kwargs", {}):
            if name in _OWN_ARGUMENTS:
                raise InputError(
                    f"field 'chat_template_kwargs': {name!r} is not a row's to set. Drop it."
                )
            if not re.search(rf"\b{re.escape(name)}\b", text):
                raise InputError(
                    f"field 'chat_template_kwargs': the chat template of {self.name} knows no "
                    f"{name!r}. Drop it, or give another chat template."
                )

    @property
    def name(self) -> str:
        """Whose it is, for errors."""
        name = self.tokenizer.name_or_path
        return repr(name) if name else "the tokenizer"

    def write(self, messages: Messages, **how: Any) -> str:
        """Messages as the template writes them; `InputError` with its words if it refuses."""
        [text] = self.write_all([messages], **how)
        return text

    def write_all(self, chats: Sequence[Messages], **how: Any) -> list[str]:
        """`write` of each, in less time."""
        options = {**self.given.get("chat_template_kwargs", {}), **how}
        if self.given.get("tools"):
            options = {"tools": self.given["tools"], **options}
        source, many = str(self.tokenizer.chat_template), cast(Any, [list(chat) for chat in chats])
        if not many:
            return []
        if len(source) > _LARGEST:
            raise InputError(
                f"the chat template of {self.name} has {len(source)} characters, more than "
                f"{_LARGEST}. Give a shorter one."
            )
        # Counting takes time, and a template that ended once has no loop without an end.
        count = contextlib.nullcontext() if source in _ENDED else _counted_lines()
        try:
            with count:
                texts = self.tokenizer.apply_chat_template(many, tokenize=False, **options)
        except Exception as error:  # templates are programs; jinja raises what they raise
            if len(chats) > 1:  # which of them it is
                return [self.write(chat, **how) for chat in chats]
            roles = ", ".join(message["role"] for message in chats[0])
            raise InputError(
                f"The chat template of {self.name} refuses messages with roles ({roles}): "
                f"{type(error).__name__}: {error}. Give another chat template, or other roles."
            ) from error
        _ENDED.add(source)
        return [str(text) for text in texts]

    def not_shown(self, what: str) -> InputError:
        """Of a place that the template does not show."""
        return InputError(
            f"the chat template of {self.name} does not show {what}, so that what to train on is "
            "not known. Give 'prompt', 'chosen' and 'rejected' as text, or another chat template."
        )

    def left_out(self, field: str) -> InputError:
        """Of a field that the template does not write."""
        return InputError(
            f"the chat template of {self.name} leaves out what '{field}' says. Give a template "
            "that writes it, write it into 'content', or drop the field."
        )

    def check_tools(self, messages: Messages, key: str) -> None:
        """Refuse a template that does not write the name of every tool."""
        if not messages or not self.given.get("tools"):
            return
        marks: list[str] = []
        tools = []
        for tool in self.given["tools"]:
            function = {**function_of(tool), "name": _mark(marks, key)}
            tools.append({**tool, "function": function} if "function" in tool else function)
        text = self.write(messages, tools=tools)
        if not all(mark in text for mark in marks):
            raise self.left_out("tools")

    def check_messages(self, messages: Messages) -> None:
        """Refuse a template that does not write what a message's fields say where it comes last.

        What it leaves out once other messages follow, as many do with reasoning, it leaves out when
        the model is asked as well; so are names and ids. Of both there is a warning, once.
        """
        if not is_marked_up(messages) and all(m["role"] != "tool" for m in messages):
            return
        key = key_of(messages)
        for i, message in enumerate(messages):
            marked, marks = with_marks(message, key)
            if (marks or message["role"] == "tool") and message.get("content"):
                marks["content"] = [f"{key}content"]
                marked["content"] = f"{message['content']}{key}content"
            if marks:
                self.check_marks(marked, marks, self.write([*messages[:i], marked]))
                whole = self.write([*messages[:i], marked, *messages[i + 1 :]])
                for field in REASONING:
                    if not all(mark in whole for mark in marks.get(field, ())):
                        self._say_left_out(field)
            for field in NAMES:
                if field in message:
                    without = [{k: v for k, v in m.items() if k != field} for m in messages]
                    if self._write_or_say(messages) == self._write_or_say(without):
                        self._say_left_out(field)

    def check_marks(self, marked: Message, marks: Mapping[str, list[str]], text: str) -> None:
        """Refuse a text that lacks marks of a message's fields, or garbles its calls' arguments."""
        for field, places in marks.items():
            if not all(mark in text for mark in places):
                raise self.left_out(field)
        for call in marked.get("tool_calls", ()):
            given = function_of(call).get("arguments")
            quoted = isinstance(given, str) and '"' in given and json.dumps(given)[1:-1] in text
            if quoted or (given and not isinstance(given, str) and repr(given) in text):
                raise InputError(
                    f"the chat template of {self.name} writes a call's 'arguments' as "
                    + ("quoted text. Give an object." if quoted else "Python does. Give JSON text.")
                )

    def _say_left_out(self, field: str) -> None:
        said = f"does not write '{field}' of earlier messages. Training follows it."
        warn_once(f"The chat template of {self.name} {said}", str(self.tokenizer.chat_template))

    def _write_or_say(self, messages: Messages) -> str:
        try:
            return self.write(messages)
        except InputError as error:
            return str(error)


_HEARD: ContextVar[dict[str, None] | None] = ContextVar("_HEARD", default=None)


@contextlib.contextmanager
def hearing() -> Iterator[dict[str, None]]:
    """Collect what `warn_once` would say in the block, for who prepares rows to say."""
    heard: dict[str, None] = {}
    token = _HEARD.set(heard)
    try:
        yield heard
    finally:
        _HEARD.reset(token)


def warn_once(words: str, template: str) -> None:
    """Say something of a template once."""
    heard = _HEARD.get()
    if heard is None:
        _say(words, template)
    else:
        heard[words] = None


@lru_cache(maxsize=64)
def _say(words: str, template: str) -> None:
    logger.warning(words)


def key_of(*messages: Any) -> str:
    """Letters and digits that are in none of the messages."""
    return "k" + hashlib.sha256(json.dumps(messages).encode()).hexdigest()[:16]


def with_marks(message: Message, key: str) -> tuple[Message, dict[str, list[str]]]:
    """A message with marks in the places of what its fields say, and each field's marks.

    A call's name and every value of its arguments is one; ids are left, which templates check.
    """
    marked = dict(message)
    marks: dict[str, list[str]] = {field: [] for field in said_fields(message)}
    for field, places in marks.items():
        if field == "tool_calls":
            marked[field] = [_marked_call(call, places, f"{key}call") for call in message[field]]
        else:
            marked[field] = _mark(places, f"{key}{field}")
    return marked, marks


def _mark(marks: list[str], key: str) -> str:
    marks.append(f"{key}x{len(marks)}z")
    return marks[-1]


def _marked_call(call: Mapping[str, Any], marks: list[str], key: str) -> dict[str, Any]:
    function = {**function_of(call), "name": _mark(marks, key)}
    if arguments := function.get("arguments"):
        as_text = isinstance(arguments, str)
        marked = _marked_leaves(json.loads(arguments) if as_text else arguments, marks, key)
        function["arguments"] = json.dumps(marked) if as_text else marked
    return {**call, "function": function} if "function" in call else function


def _marked_leaves(value: Any, marks: list[str], key: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _marked_leaves(one, marks, key) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_marked_leaves(one, marks, key) for one in value]
    return _mark(marks, key)
