"""The three shapes of rows that a step is trained on, named as TRL names them, and their checks.

- *Pairs*: `chosen`, `rejected` (text, or lists of `{"role", "content"}` messages) and, optionally,
  `score_chosen`, `score_rejected` (both or none), the value of each response, higher better; their
  difference is the gap that the targets `soft` and `gap` regress on.
- *Groups*: `completions`, k texts or k lists of messages, and `scores`, k numbers: what a sampler
  with a reward or a cost hands over as it is. The loss takes every pair of a group.
- *Responses* judged one by one: `completion`, `label`. A pair counts as two of them, the chosen one
  true and the rejected one false.

Each has a `prompt` of the same kind; a pair may have it in another layout (`prompt_of`), or as the
common beginning of its responses. `tools` and `chat_template_kwargs` are optional (`fields.py`).
What is wrong is an `InputError` that names the place, the field and the remedy.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeGuard

from datasets import Value

from riskalign.data.fields import (
    Text,
    checked_flag,
    checked_score,
    checked_text,
    dense,
    given_fields,
    refuse_mixed_kinds,
    row_fields,
)
from riskalign.errors import InputError

logger = logging.getLogger(__name__)

Row: TypeAlias = dict[str, Any]
Check: TypeAlias = Callable[[Mapping[str, Any], str], Iterator[Row]]

_IDS, _NUMBER = [Value("int32")], Value("float64")
#: What asks where there is no `prompt`; Alpaca's `instruction` may have an `input`.
_ASKING = ("instruction", "question", "query", "input")
_UNREAD = ("system_prompt", "context", "history", "conversations", "conversation", "problem")


class Shape(NamedTuple):
    """A shape of rows.

    `one` is what errors call a row, `remedy` what they ask for where none is left, `check` makes
    checked rows of one. `answers` are the fields that hold the answers, a list of them in a group;
    `checked` and `trained` the other columns of a checked row and of a tokenized one.
    """

    one: str
    remedy: str
    check: Check
    answers: tuple[str, ...]
    checked: dict[str, Any]
    trained: dict[str, Any]

    def read(self, text: Any) -> dict[str, Any]:
        """The columns of a checked row beside `prompt`, of the feature that texts have."""
        of_row = [text] if self.answers == ("completions",) else text
        return dict.fromkeys(self.answers, of_row) | self.checked

    @property
    def tokenized(self) -> dict[str, Any]:
        """The columns of a tokenized row beside `prompt_ids` and `length`.

        There `*_gaps` are starts and ends, in turn, of tokens of a response that the template
        writes between its turns: nothing is predicted there. A response ends with its end token
        unless it was cut; `gap` is `score_chosen - score_rejected`, NaN without scores.
        """
        return {
            f"{a}_{part}": each
            for a, each in self.read(_IDS).items()
            if a in self.answers
            for part in ("ids", "gaps")
        } | self.trained


def check_rows(rows: Iterable[tuple[str, Any]], check: Check) -> Iterator[Row]:
    """Check rows given as (where, row); `InputError` names `where`, file and line."""
    first_where, first_kind = "", ""
    n = bare = 0
    for where, given in rows:
        for row in check(given, where):
            kind = "text" if isinstance(row["prompt"], str) else "messages"
            if not n:
                first_where, first_kind = where, kind
            elif kind != first_kind:
                raise InputError(
                    f"{where}: holds {kind} where {first_where} holds {first_kind}. "
                    "Give every row of one data set the same kind."
                )
            n += 1
            bare += not row["prompt"]
            yield row
    if bare:
        name = first_where.rpartition(",")[0] or first_where
        logger.warning(bare_words(name, bare, n))


def bare_words(name: str, bare: int, n: int) -> str:
    """What is said of rows without a prompt."""
    return f"{name}: {bare} of {n} rows have no prompt."


def check_row(row: Mapping[str, Any], where: str) -> Row:
    """Check a pair and split off its prompt, which its responses do not repeat."""
    given = prompt_of(row, where)
    prompt = given if given is None else checked_text({"prompt": given}, "prompt", where)
    chosen, rejected = (checked_text(row, field, where) for field in ("chosen", "rejected"))
    refuse_mixed_kinds(where, chosen=chosen, rejected=rejected)
    more = row_fields(row, chosen, where)
    said = prompt if isinstance(prompt, str) and not isinstance(chosen, str) else None
    if prompt is None or said is not None:
        prompt, chosen, rejected = split_prompt(chosen, rejected)
    if said is not None:
        _check_said(said, prompt, where)
    refuse_mixed_kinds(where, prompt=prompt, chosen=chosen)
    n = len(prompt)
    if not isinstance(prompt, str) and chosen[:n] == prompt == rejected[:n]:
        chosen, rejected = chosen[n:], rejected[n:]
    scores = {
        field: None if row.get(field) is None else checked_score(row[field], field, where)
        for field in ("score_chosen", "score_rejected")
    }
    missing = [field for field, score in scores.items() if score is None]
    if len(missing) == 1:
        raise InputError(f"{where}: field '{missing[0]}' is missing. Give both scores or none.")
    prompt = _with_system(row, prompt, where)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **scores, **more}


def split_prompt(chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Split the common beginning off as the prompt: whole messages, or text up to a word's end.

    A space where the text parts ways goes to the responses.
    """
    n = 0
    while n < min(len(chosen), len(rejected)) and chosen[n] == rejected[n]:
        n += 1
    if isinstance(chosen, str):
        while n and not chosen[n - 1].isspace():
            n -= 1
        n = len(chosen[:n].rstrip())
    return chosen[:n], chosen[n:], rejected[n:]


def prompt_of(row: Mapping[str, Any], where: str) -> Any:
    """The prompt that a row's fields give apart from its answers, text or messages; None for none.

    It is `prompt`, or `instruction` with or without `input`, `question`, `query`, `input`, or
    `messages` that are neither of the answers' conversations. Whole conversations in `chosen` and
    `rejected` hold their prompt, and a text beside them must be found in there. Fields that could
    be a prompt and would be thrown away are an `InputError`.
    """
    prompt, messages = row.get("prompt"), row.get("messages")
    asking = [field for field in _ASKING if _filled(row.get(field))]
    if prompt is None and asking:
        if len(asking) > 1 and asking != ["instruction", "input"]:
            raise _unclear(where, asking)
        prompt = "\n\n".join(row[field] for field in asking)
    elif isinstance(prompt, str) and isinstance(row.get("chosen"), str):
        strange = [field for field in asking if row[field].strip() not in prompt]
        if strange:
            raise _unclear(where, ["prompt", *strange])
    if prompt is None and messages and messages not in (row.get("chosen"), row.get("rejected")):
        prompt = messages
    if prompt is None and (unread := [field for field in _UNREAD if row.get(field)]):
        raise _unclear(where, unread)
    return prompt


def _check_said(text: str, prompt: Any, where: str) -> None:
    """Refuse a text prompt beside whole conversations that does not stand in their beginning."""
    words = dense(text)
    said = [dense(message["content"]) for message in prompt if message["role"] != "assistant"]
    if words and not any(turn and (words in turn or turn in words) for turn in said):
        raise InputError(
            f"{where}: the text in 'prompt' is not what 'chosen' and 'rejected' begin with. Make "
            'it a list of {"role", "content"} messages, or drop it where the two hold it.'
        )


def _with_system(row: Mapping[str, Any], prompt: Text, where: str) -> Text:
    """The prompt behind what the field `system` says, unless it is there already."""
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


def _unclear(where: str, fields: list[str]) -> InputError:
    return InputError(
        f"{where}: which of the fields {', '.join(map(repr, fields))} is the prompt is not known. "
        "Give it as 'prompt', and drop or rename the others."
    )


def _pair(row: Mapping[str, Any], where: str) -> Iterator[Row]:
    yield check_row(row, where)


def _group(row: Mapping[str, Any], where: str) -> Iterator[Row]:
    prompt = checked_text(row, "prompt", where)
    for field in ("completions", "scores"):
        if not isinstance(row.get(field), list | tuple):
            raise InputError(f"{where}: field '{field}' is {row.get(field)!r}. Give a list.")
    answers = [checked_text({"completions": a}, "completions", where) for a in row["completions"]]
    for answer in answers:
        refuse_mixed_kinds(where, prompt=prompt, completions=answer)
    scores = [checked_score(score, "scores", where) for score in row["scores"]]
    if len(scores) != len(answers) or len(scores) < 2:
        raise InputError(
            f"{where}: {len(answers)} 'completions' and {len(scores)} 'scores'. "
            "Give at least two answers, and a score for each."
        )
    more = row_fields(row, prompt, where)
    yield {"prompt": prompt, "completions": answers, "scores": scores, **more}


def _responses(row: Mapping[str, Any], where: str) -> Iterator[Row]:
    if "completion" in row:
        label = checked_flag(row, "label", where, "desirable")
        prompt, answer = (checked_text(row, field, where) for field in ("prompt", "completion"))
        refuse_mixed_kinds(where, prompt=prompt, completion=answer)
        more = row_fields(row, prompt, where)
        yield {"prompt": prompt, "completion": answer, "label": label, **more}
        return
    pair = check_row(row, where)
    shared = {"prompt": pair["prompt"], **given_fields(pair)}
    yield {**shared, "completion": pair["chosen"], "label": True}
    yield {**shared, "completion": pair["rejected"], "label": False}


PAIRS = Shape(
    "preference pair",
    "Give rows whose responses differ and are not empty.",
    _pair,
    ("chosen", "rejected"),
    {"score_chosen": _NUMBER, "score_rejected": _NUMBER},
    {"gap": _NUMBER},
)
GROUPS = Shape(
    "group of answers",
    "Give rows whose answers differ, in their scores as well unless ties count.",
    _group,
    ("completions",),
    {"scores": [_NUMBER]},
    {"scores": [_NUMBER]},
)
RESPONSES = Shape(
    "response",
    "Give rows whose completion is not empty.",
    _responses,
    ("completion",),
    {"label": Value("bool")},
    {"label": Value("bool")},
)


SHAPES = {shape.one: shape for shape in (PAIRS, GROUPS, RESPONSES)}


def shape_of(row: Mapping[str, Any]) -> Shape:
    """The shape that a row's fields speak for, pairs where they speak for none."""
    if "completions" in row:
        return GROUPS
    return RESPONSES if "completion" in row else PAIRS


def answers_of(row: Mapping[str, Any]) -> list[Text]:
    """A checked row's answers."""
    shape = shape_of(row)
    return list(row["completions"]) if shape is GROUPS else [row[name] for name in shape.answers]
