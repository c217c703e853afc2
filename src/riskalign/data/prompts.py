"""Which fields of a pair are its prompt: the layouts that public preference sets have."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from riskalign.errors import InputError

#: What asks where there is no `prompt`; Alpaca's `instruction` may have an `input`.
_ASKING = ("instruction", "question", "query", "input")
_UNREAD = ("system_prompt", "context", "history", "conversations", "conversation", "problem")


def prompt_of(row: Mapping[str, Any], where: str) -> Any:
    """The prompt that a row's fields give apart from its answers, text or messages; None for none.

    It is `prompt`, or `instruction` with or without `input`, `question`, `query`, `input`, or
    `messages` that are neither of the answers' conversations. Whole conversations in `chosen` and
    `rejected` hold their prompt, and a text beside them must be found in there.

    Raises:
        InputError: fields that could be a prompt and would be thrown away.
    """
    prompt = row.get("prompt")
    asking = [field for field in _ASKING if _filled(row.get(field))]
    if prompt is None and asking:
        if len(asking) > 1 and asking != ["instruction", "input"]:
            raise _unclear(where, asking)
        prompt = "\n\n".join(row[field] for field in asking)
    elif isinstance(prompt, str) and isinstance(row.get("chosen"), str):
        strange = [field for field in asking if row[field].strip() not in prompt]
        if strange:
            raise _unclear(where, ["prompt", *strange])
    messages = row.get("messages")
    if prompt is None and messages and messages not in (row.get("chosen"), row.get("rejected")):
        prompt = messages
    if prompt is None and (unread := [field for field in _UNREAD if row.get(field)]):
        raise _unclear(where, unread)
    return prompt


def within(prompt: str, messages: list[dict[str, Any]], where: str) -> None:
    """Check that a text prompt beside whole conversations is said in their common beginning.

    Raises:
        InputError: names `where`.
    """
    words = _dense(prompt)
    said = [_dense(message["content"]) for message in messages if message["role"] != "assistant"]
    if words and not any(text and (words in text or text in words) for text in said):
        raise InputError(
            f"{where}: the text in 'prompt' is not what 'chosen' and 'rejected' begin with. Make "
            'it a list of {"role", "content"} messages, or drop it where the two hold it.'
        )


def with_system(row: Mapping[str, Any], prompt: Any, where: str) -> Any:
    """The prompt behind what the field `system` says, unless it is there already.

    Raises:
        InputError: the messages have another system turn.
    """
    system = row.get("system")
    if not _filled(system):
        return prompt
    if isinstance(prompt, str):
        return prompt if system.strip() in prompt else f"{system}\n\n{prompt}"
    if not prompt or prompt[0]["role"] != "system":
        return [{"role": "system", "content": system}, *prompt]
    if prompt[0]["content"].strip() != system.strip():
        raise _unclear(where, ["system", "prompt"])
    return prompt


def _filled(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _dense(text: str) -> str:
    return "".join(text.split())


def _unclear(where: str, fields: list[str]) -> InputError:
    return InputError(
        f"{where}: which of the fields {', '.join(map(repr, fields))} is the prompt is not known. "
        "Give it as 'prompt', and drop or rename the others."
    )
