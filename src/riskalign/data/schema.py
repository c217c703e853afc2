"""What a preference row is: its columns, and the checks that every source passes.

Columns, named as TRL names them:

- `chosen`, `rejected`: text, or lists of `{"role", "content"}` messages;
- `prompt`: the same kind, or what stands for it in other layouts (`prompts.py`); where there is
  none, the common beginning of the two is the prompt;
- `tools`, `chat_template_kwargs` (optional): what the chat template is given beside the messages
  (`fields.py`, as are the messages' own further fields);
- `score_chosen`, `score_rejected` (optional, both or none): the value of each response, higher
  better; their difference is the gap that the targets `soft` and `gap` regress on.
"""

import json
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from riskalign.data.fields import Rendering, message_fields, row_fields, said_fields
from riskalign.data.prompts import prompt_of, with_system, within
from riskalign.errors import InputError

logger = logging.getLogger(__name__)

Message: TypeAlias = dict[str, Any]
Text: TypeAlias = str | list[Message]


class Pair(Rendering):
    """One checked preference row; `chosen` and `rejected` do not repeat the prompt."""

    prompt: Text
    chosen: Text
    rejected: Text
    score_chosen: float | None
    score_rejected: float | None


def check_rows(rows: Iterable[tuple[str, Any]]) -> list[Pair]:
    """Check rows given as (where, row); `where` names file and line in errors.

    Raises:
        InputError: a column is missing or of the wrong kind, rows mix text and messages, or
            there is no row at all.
    """
    pairs: list[Pair] = []
    first_where, first_kind = "", ""
    for where, row in rows:
        pair = check_row(row, where)
        kind = "text" if isinstance(pair["chosen"], str) else "messages"
        if not pairs:
            first_where, first_kind = where, kind
        elif kind != first_kind:
            raise InputError(
                f"{where}: holds {kind} where {first_where} holds {first_kind}. "
                "Give every row of one data set the same kind."
            )
        pairs.append(pair)
    if bare := sum(not pair["prompt"] for pair in pairs):
        logger.warning(
            "%s: %d of %d rows have no prompt, and answers that begin differently.",
            first_where.rpartition(",")[0] or first_where,
            bare,
            len(pairs),
        )
    return pairs


def check_row(row: Any, where: str) -> Pair:
    """Check one row and split off its prompt.

    Raises:
        InputError: names `where`, the field and the remedy.
    """
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: expected an object with fields, got {type(row).__name__}.")
    chosen, rejected = (checked_text(row, field, where) for field in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise InputError(
            f"{where}: fields 'chosen' and 'rejected' differ in kind. "
            "Make both text or both lists of messages."
        )
    more = row_fields(row, where, messages=not isinstance(chosen, str))
    given = prompt_of(row, where)
    prompt: Text
    if given is None:
        prompt, chosen, rejected = split_prompt(chosen, rejected)
    else:
        prompt = checked_text({"prompt": given}, "prompt", where)
        if isinstance(prompt, str) and not isinstance(chosen, str):
            text = prompt
            prompt, chosen, rejected = split_prompt(chosen, rejected)
            assert not isinstance(prompt, str)
            within(text, prompt, where)
        elif isinstance(prompt, str) != isinstance(chosen, str):
            raise InputError(
                f"{where}: fields 'prompt' and 'chosen' differ in kind. "
                "Make both text or both lists of messages."
            )
        elif not isinstance(prompt, str):
            n = len(prompt)
            if chosen[:n] == prompt == rejected[:n]:
                chosen, rejected = chosen[n:], rejected[n:]
    prompt = with_system(row, prompt, where)
    score_chosen, score_rejected = (
        _score(row, field, where) for field in ("score_chosen", "score_rejected")
    )
    if (score_chosen is None) != (score_rejected is None):
        missing = "score_chosen" if score_chosen is None else "score_rejected"
        raise InputError(f"{where}: field '{missing}' is missing. Give both scores or none.")
    return Pair(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        score_chosen=score_chosen,
        score_rejected=score_rejected,
        **more,
    )


def split_prompt(chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Split the common beginning off as the prompt: whole messages, or text up to a word's end.

    Returns:
        prompt, chosen, rejected; a space where the text parts ways goes to the responses.
    """
    n = 0
    while n < min(len(chosen), len(rejected)) and chosen[n] == rejected[n]:
        n += 1
    if isinstance(chosen, str):
        while n and not chosen[n - 1].isspace():
            n -= 1
        while n and chosen[n - 1].isspace():
            n -= 1
    return chosen[:n], chosen[n:], rejected[n:]


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
        return [_message(message, i, field, where) for i, message in enumerate(value)]
    raise InputError(
        f"{where}: field '{field}' is {type(value).__name__}. "
        'Give text or a list of {"role", "content"} messages.'
    )


def _message(message: Any, i: int, field: str, where: str) -> Message:
    place = f"{where}: field '{field}', message {i + 1}"
    if isinstance(message, Mapping):
        more = message_fields(message, place)
        role, content = message.get("role"), message.get("content")
        if content is None and said_fields(more):
            content = ""
        if isinstance(role, str) and isinstance(content, str):
            encodable(json.dumps(more, ensure_ascii=False), field, where)
            return {"role": role, "content": encodable(content, field, where), **more}
    raise InputError(f"{place}: expected text in 'role' and 'content'.")


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


def _score(row: Mapping[str, Any], field: str, where: str) -> float | None:
    value = row.get(field)
    return None if value is None else checked_score(value, field, where)


def checked_score(value: Any, field: str, where: str) -> float:
    """A finite number; `InputError` names `where`, field and remedy."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where}: field '{field}' is {value!r}. Give a finite number.")
    return float(value)
