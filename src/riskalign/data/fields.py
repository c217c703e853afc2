"""What rows and messages hold for a chat template beside roles and contents.

Messages: `tool_calls`, reasoning under one of three names, `name` and `tool_call_id`. Rows:
`tools`, JSON schemas of functions, and `chat_template_kwargs`, further arguments of the template.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

from riskalign.errors import InputError

REASONING = ("reasoning_content", "reasoning", "thinking")
#: Fields that hold what a model says, all of which a template must write.
SAID = ("tool_calls", *REASONING)
#: Fields that say who or which call; many templates go by the order instead.
NAMES = ("name", "tool_call_id")
ROW_FIELDS = ("tools", "chat_template_kwargs")


class Rendering(TypedDict, total=False):
    """What a row gives its chat template beside the messages."""

    tools: list[dict[str, Any]]
    chat_template_kwargs: dict[str, Any]


def message_fields(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a message that are not empty, checked.

    Raises:
        InputError: names `where`, the field and the remedy.
    """
    found = {field: message[field] for field in (*SAID, *NAMES) if message.get(field)}
    for field, value in found.items():
        if field != "tool_calls" and not isinstance(value, str):
            raise InputError(f"{where}: '{field}' is {type(value).__name__}. Give text.")
    calls = found.get("tool_calls", [])
    if not isinstance(calls, list | tuple) or not all(_is_call(call) for call in calls):
        raise InputError(
            f"{where}: 'tool_calls' is not understood. Give a list of objects with 'function': "
            '{"name", "arguments"}, the arguments an object or JSON text of one.'
        )
    try:
        json.dumps(found)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {', '.join(found)}: not JSON: {error}.") from error
    return found


def row_fields(row: Mapping[str, Any], where: str, messages: bool) -> Rendering:
    """What a row gives its chat template; a list or object may also be JSON text.

    Raises:
        InputError: names `where`, the field and the remedy; also for a row without messages.
    """
    found: dict[str, Any] = {}
    for field, kind in zip(ROW_FIELDS, (list, dict), strict=True):
        value = row.get(field)
        if isinstance(value, str) and value.strip():
            try:
                value = json.loads(value)
            except ValueError as error:
                raise InputError(f"{where}: field '{field}' is not JSON: {error}.") from error
        if not value:
            continue
        if not messages:
            raise InputError(
                f"{where}: field '{field}' is for a chat template, and the row holds text. Write "
                "what it says into the text, make lists of messages, or drop the field."
            )
        if not isinstance(value, kind) or (
            field == "tools" and not all(isinstance(_function(tool), Mapping) for tool in value)
        ):
            raise InputError(
                f"{where}: field '{field}' is not understood. Give "
                + ("a list of JSON schemas of functions." if kind is list else "an object.")
            )
        found[field] = value
    return cast(Rendering, found)


def refuse_row_fields(row: Mapping[str, Any], where: str) -> None:
    """Refuse what a row gives its chat template where prompts are asked or scored without it.

    Raises:
        InputError: names `where` and the field.
    """
    for field in ROW_FIELDS:
        if row.get(field):
            raise InputError(
                f"{where}: field '{field}' is not given to the chat template here. Write what it "
                "says into the messages (a 'system' turn), or drop the field; a step's own data "
                "may have it."
            )


def given_fields(row: Mapping[str, Any]) -> Rendering:
    """What a checked row gives its chat template."""
    found = {field: row[field] for field in ROW_FIELDS if row.get(field)}
    return cast(Rendering, found)


def said_fields(message: Mapping[str, Any]) -> list[str]:
    """Names of the fields beside the content that hold what is said."""
    return [field for field in SAID if message.get(field)]


def is_marked_up(messages: Sequence[Any]) -> bool:
    """Whether any of the messages has more than role and content."""
    return any(len(message) > 2 for message in messages)


def with_marks(message: Mapping[str, Any], key: str) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """A message with marks in the places of what its fields say, and each field's marks.

    A call's name and every value of its arguments is one; ids are left, which templates check.
    """
    marked = dict(message)
    marks: dict[str, list[str]] = {}
    for field in said_fields(message):
        own = marks[field] = []
        value = message[field]
        if isinstance(value, str):
            marked[field] = _mark(own, f"{key}{field}")
        else:
            marked[field] = [_marked_call(call, own, f"{key}call") for call in value]
    return marked, marks


def marked_tools(
    tools: Sequence[Mapping[str, Any]], key: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """Tools with marks in the places of their names, and these."""
    marks: list[str] = []
    marked = []
    for tool in tools:
        named = {**_function(tool), "name": _mark(marks, key)}
        marked.append({**tool, "function": named} if "function" in tool else named)
    return marked, marks


def _mark(marks: list[str], key: str) -> str:
    marks.append(f"{key}x{len(marks)}z")
    return marks[-1]


def _marked_call(call: Mapping[str, Any], marks: list[str], key: str) -> dict[str, Any]:
    function = _function(call)
    arguments = function.get("arguments")
    named = {**function, "name": _mark(marks, key)}
    if isinstance(arguments, str) and arguments:
        named["arguments"] = json.dumps(_leaves(json.loads(arguments), marks, key))
    elif arguments:
        named["arguments"] = _leaves(arguments, marks, key)
    return {**call, "function": named} if "function" in call else {**call, **named}


def _leaves(value: Any, marks: list[str], key: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _leaves(one, marks, key) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_leaves(one, marks, key) for one in value]
    return _mark(marks, key)


def _function(call: Any) -> Any:
    return call.get("function", call) if isinstance(call, Mapping) else None


def _is_call(call: Any) -> bool:
    function = _function(call)
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
