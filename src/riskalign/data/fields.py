"""What fields of rows and messages hold, checked: texts, scores, and what a chat template is given.

Beside role and content a message may have `tool_calls`, reasoning under one of three names, `name`
and `tool_call_id`. A row may have `tools`, JSON schemas of functions, and `chat_template_kwargs`,
further arguments of the template.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from riskalign.errors import InputError

Message: TypeAlias = dict[str, Any]
Text: TypeAlias = str | list[Message]

REASONING = ("reasoning_content", "reasoning", "thinking")
#: Fields that hold what a model says, all of which a template must write.
SAID = ("tool_calls", *REASONING)
#: Fields that say who or which call; many templates go by the order instead.
NAMES = ("name", "tool_call_id")
#: What a row gives its chat template beside the messages, and its kind.
ROW_FIELDS = {"tools": list, "chat_template_kwargs": dict}


def checked_text(row: Mapping[str, Any], field: str, where: str) -> Text:
    """The text or messages in a row's field; `InputError` names `where`, field and remedy."""
    value = row.get(field)
    if value is None:
        found = ", ".join(sorted(map(str, row))) or "none"
        raise InputError(
            f"{where}: field '{field}' is missing (fields found: {found}). "
            + (
                "Give each row 'chosen' and 'rejected' and, unless they share it, 'prompt'."
                if field in ("chosen", "rejected")
                else f"Give each row '{field}'."
            )
        )
    if isinstance(value, str):
        return encodable(value, field, where)
    if isinstance(value, list | tuple):
        if not value and field != "prompt":
            raise InputError(f"{where}: field '{field}' has no message. Give at least one.")
        return [_message(message, i, field, where) for i, message in enumerate(value, start=1)]
    raise InputError(
        f"{where}: field '{field}' is {type(value).__name__}. "
        'Give text or a list of {"role", "content"} messages.'
    )


def _message(message: Any, number: int, field: str, where: str) -> Message:
    place = f"{where}: field '{field}', message {number}"
    if isinstance(message, Mapping):
        more = _message_fields(message, place)
        role, content = message.get("role"), message.get("content")
        if content is None and said_fields(more):
            content = ""
        if isinstance(role, str) and isinstance(content, str):
            encodable(role + json.dumps(more, ensure_ascii=False), field, where)
            return {"role": role, "content": encodable(content, field, where), **more}
    raise InputError(f"{place}: expected text in 'role' and 'content'.")


def _message_fields(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a message beside role and content that are not empty."""
    more = {field: message[field] for field in (*SAID, *NAMES) if message.get(field)}
    for field, value in more.items():
        if field != "tool_calls" and not isinstance(value, str):
            raise InputError(f"{where}: '{field}' is {type(value).__name__}. Give text.")
    calls = more.get("tool_calls", [])
    if not isinstance(calls, list | tuple) or not all(map(_is_call, calls)):
        raise InputError(
            f"{where}: 'tool_calls' is not understood. Give a list of objects with 'function': "
            '{"name", "arguments"}, the arguments an object or JSON text of one.'
        )
    try:
        json.dumps(more)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {', '.join(more)}: not JSON: {error}.") from error
    return more


def _is_call(call: Any) -> bool:
    function = function_of(call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return False
    arguments = function.get("arguments")
    if arguments == "":
        return True
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return False
    return arguments is None or isinstance(arguments, Mapping)


def function_of(call: Any) -> Any:
    """The function of a call or a tool, which may be written without the object around it."""
    return call.get("function", call) if isinstance(call, Mapping) else None


def row_fields(row: Mapping[str, Any], prompt: Text, where: str) -> dict[str, Any]:
    """What a row gives its chat template; a list or object may also be JSON text.

    A row whose prompt is text may give nothing.
    """
    given: dict[str, Any] = {}
    for field, kind in ROW_FIELDS.items():
        value = row.get(field)
        if isinstance(value, str) and value.strip():
            try:
                value = json.loads(value)
            except ValueError as error:
                raise InputError(f"{where}: field '{field}' is not JSON: {error}.") from error
        if not value:
            continue
        if isinstance(prompt, str):
            raise InputError(
                f"{where}: field '{field}' is for a chat template, and the row holds text. Write "
                "what it says into the text, make lists of messages, or drop the field."
            )
        if not isinstance(value, kind) or (
            kind is list and not all(isinstance(function_of(tool), Mapping) for tool in value)
        ):
            raise InputError(
                f"{where}: field '{field}' is not understood. Give "
                + ("a list of JSON schemas of functions." if kind is list else "an object.")
            )
        given[field] = value
    return given


def refuse_row_fields(row: Mapping[str, Any], where: str) -> None:
    """Refuse what a row gives its chat template where prompts are asked or scored without it."""
    for field in given_fields(row):
        raise InputError(
            f"{where}: field '{field}' is not given to the chat template here. Write what it says "
            "into the messages (a 'system' turn), or drop the field; a step's own data may have it."
        )


def given_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row gives its chat template beside the messages."""
    return {field: row[field] for field in ROW_FIELDS if row.get(field)}


def said_fields(message: Mapping[str, Any]) -> list[str]:
    """Names of the fields beside the content that hold what is said."""
    return [field for field in SAID if message.get(field)]


def is_empty(text: Text) -> bool:
    """Whether a text has nothing but white space, no call and no reasoning."""
    if isinstance(text, str):
        return not text.strip()
    return not any(message["content"].strip() or said_fields(message) for message in text)


def refuse_mixed_kinds(where: str, **texts: Text) -> None:
    """Refuse fields of which some are text and some are messages."""
    if len({isinstance(text, str) for text in texts.values()}) > 1:
        names = " and ".join(map(repr, texts))
        raise InputError(
            f"{where}: fields {names} differ in kind. Make all text or all lists of messages."
        )


def encodable(text: str, field: str, where: str) -> str:
    """The same text, if there is UTF-8 for it; `InputError` names `where`, field and character."""
    # JSON can hold half of a surrogate pair, which is no character and has no UTF-8.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: field '{field}', character {error.start + 1}: {text[error.start]!r} is half "
            "of a character. Write the whole character, or drop it."
        ) from error
    return text


def checked_score(value: Any, field: str, where: str) -> float:
    """A finite number; `InputError` names `where`, field and remedy."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Python's whole numbers go beyond what a float can be.
    if not is_number or not abs(value) <= sys.float_info.max:
        raise InputError(f"{where}: field '{field}' is {value!r:.60}. Give a finite number.")
    return float(value)


def checked_flag(row: Mapping[str, Any], field: str, where: str, meaning: str) -> bool:
    """A field that is true or false; `InputError` says what true means."""
    value = row.get(field)
    if not isinstance(value, bool):
        raise InputError(f"{where}: field '{field}' is {value!r}. Give true ({meaning}) or false.")
    return value


def dense(text: str) -> str:
    """A text without its white space."""
    return "".join(text.split())


def is_marked_up(messages: Sequence[Message]) -> bool:
    """Whether any of the messages has more than role and content."""
    return any(len(message) > 2 for message in messages)
