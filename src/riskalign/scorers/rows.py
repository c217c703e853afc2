"""From data files to judged answers: which of two is better or safer, and which are unsafe."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from riskalign.data.fields import refuse_row_fields
from riskalign.data.formats import (
    FORMATS,
    UnusableRow,
    answer_number,
    guess_format,
    safety_flag,
)
from riskalign.data.schema import Text, checked_text
from riskalign.data.sources import Source, source_rows
from riskalign.errors import InputError

Kind = Literal["reward", "cost"]

_FORMATS = (
    "Give prompt, response_0, response_1 with their labels (as PKU-SafeRLHF has them); prompt, "
    "chosen, rejected; or prompt, completion, label."
)


@dataclass(frozen=True)
class Judged:
    """A prompt with one or two answers.

    `first` is the number of the answer that is better (for a reward) or safer (for a cost), None
    where there is one answer; `unsafe` holds a label for each answer, and nothing for a reward.
    """

    prompt: Text
    answers: tuple[Text, ...]
    first: int | None
    unsafe: tuple[bool, ...] = ()


def check_kind(kind: str) -> None:
    """Refuse what is neither ``reward`` nor ``cost`` with `InputError`."""
    if kind not in get_args(Kind):
        raise InputError(f"kind is {kind!r}. Give one of {', '.join(get_args(Kind))}.")


def judged_rows(
    source: Source, kind: Kind, *, split: str = "train", name: str = ""
) -> list[Judged]:
    """Read what a scorer of a kind learns from.

    Rows may be those of PKU-SafeRLHF (`prompt`, `response_0`, `response_1`, and for a reward
    `better_response_id`, for a cost `safer_response_id`, `is_response_0_safe`,
    `is_response_1_safe`); TRL's pairs, for a cost with `score_chosen` and `score_rejected`, minus
    the costs, of which those above 0 are unsafe; for a reward, hh-rlhf's transcripts, of which
    those that part before the last turn or end otherwise are left out; or, for a cost, TRL's
    unpaired rows, whose `label` is false where the completion is unsafe.

    `source` is a path, a hub id or rows, as `riskalign.data.load_pairs` takes them; `name` is what
    errors call rows that have no name of their own.

    Raises:
        InputError: names the file, the line or row, the field and the remedy.
    """
    check_kind(kind)
    name = name or (str(source) if isinstance(source, str | Path) else "data")
    rows, unusable = [], None
    for where, row in source_rows(source, split, name):
        try:
            rows.append(_judged(row, kind, where))
        except UnusableRow as error:
            unusable = unusable or error
    if not rows:
        raise unusable or InputError(f"{name}: holds no row. {_FORMATS}")
    return rows


def _judged(row: Any, kind: Kind, where: str) -> Judged:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: expected an object with fields, got {type(row).__name__}.")
    refuse_row_fields(row, where)
    if "completion" in row and "response_0" not in row:
        return _completion(row, kind, where)
    if not {"response_0", "chosen"} & row.keys():
        fields = ", ".join(sorted(map(str, row))) or "none"
        raise InputError(
            f"{where}: no answers that are judged (fields found: {fields}). {_FORMATS}"
        )
    read = _two_responses if "response_0" in row else _record
    return read(row, kind, where)


def _two_responses(row: Mapping[str, Any], kind: Kind, where: str) -> Judged:
    prompt, *answers = (checked_text(row, f, where) for f in ("prompt", "response_0", "response_1"))
    field = "better_response_id" if kind == "reward" else "safer_response_id"
    first = answer_number(row, field, where)
    numbers = (0, 1) if kind == "cost" else ()
    unsafe = tuple(not safety_flag(row, f"is_response_{i}_safe", where) for i in numbers)
    return Judged(prompt, tuple(answers), first, unsafe)


def _record(row: Mapping[str, Any], kind: Kind, where: str) -> Judged:
    """Of pairs and transcripts, which name the better or safer answer first."""
    record = FORMATS[guess_format(row, where)](row, where)
    if kind == "reward":
        return Judged(record.prompt, record.answers, 0)
    if record.rewards is None:
        raise InputError(
            f"{where}: fields 'score_chosen' and 'score_rejected' (minus the costs) are "
            "missing, and a cost scorer needs them to know which answers are unsafe. Add them. "
            f"{_FORMATS}"
        )
    return Judged(record.prompt, record.answers, 0, tuple(score < 0 for score in record.rewards))


def _completion(row: Mapping[str, Any], kind: Kind, where: str) -> Judged:
    if kind == "reward":
        raise InputError(
            f"{where}: a single 'completion', and a reward is learnt from pairs. Give prompt, "
            "chosen, rejected."
        )
    prompt, answer = (checked_text(row, field, where) for field in ("prompt", "completion"))
    return Judged(prompt, (answer,), None, (not safety_flag(row, "label", where),))
