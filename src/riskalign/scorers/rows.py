"""From data files to judged answers: which of two is better or safer, and which are unsafe."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riskalign.data.fields import Text, checked_text, refuse_row_fields
from riskalign.data.formats import (
    UnusableRow,
    answer_number,
    guess_format,
    hh_rlhf,
    safety_flag,
)
from riskalign.data.schema import check_row
from riskalign.data.sources import Source, source_rows
from riskalign.errors import InputError
from riskalign.scorers.scorer_data import KINDS, Kind

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

    Args:
        source: a path, a hub id or rows, as `riskalign.data.load_pairs` takes them.
        kind: ``reward`` or ``cost``.
        split: which split of a source that has several.
        name: what errors call a source without a name of its own.

    Raises:
        InputError: names the file, the line or row, the field and the remedy.
    """
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}. Give one of {', '.join(KINDS)}.")
    own = name or (str(source) if isinstance(source, str | Path) else "data")
    rows, unusable = [], None
    for where, row in source_rows(source, split, own):
        try:
            rows.append(_judged(row, kind, where))
        except UnusableRow as error:
            unusable = unusable or error
    if unusable is not None and not rows:
        raise unusable
    if not rows:
        raise InputError(f"{own}: holds no row. {_FORMATS}")
    return rows


def _judged(row: Any, kind: Kind, where: str) -> Judged:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: expected an object with fields, got {type(row).__name__}.")
    refuse_row_fields(row, where)
    if "response_0" in row:
        return _two_responses(row, kind, where)
    if "completion" in row:
        return _completion(row, kind, where)
    if "chosen" not in row:
        found = ", ".join(sorted(map(str, row))) or "none"
        raise InputError(f"{where}: no answers that are judged (fields found: {found}). {_FORMATS}")
    if guess_format(row, where) == "hh-rlhf":
        return _transcripts(row, kind, where)
    pair = check_row(row, where)
    scores = pair["score_chosen"], pair["score_rejected"]
    unsafe: tuple[bool, ...] = ()
    if kind == "cost":
        if scores[0] is None or scores[1] is None:
            raise InputError(
                f"{where}: fields 'score_chosen' and 'score_rejected' (minus the costs) are "
                "missing, and a cost scorer needs them to know which answers are unsafe. Add them."
            )
        unsafe = scores[0] < 0, scores[1] < 0
    return Judged(pair["prompt"], (pair["chosen"], pair["rejected"]), 0, unsafe)


def _two_responses(row: Mapping[str, Any], kind: Kind, where: str) -> Judged:
    prompt, *answers = (checked_text(row, f, where) for f in ("prompt", "response_0", "response_1"))
    field = "better_response_id" if kind == "reward" else "safer_response_id"
    first = answer_number(row, field, where)
    unsafe: tuple[bool, ...] = ()
    if kind == "cost":
        unsafe = tuple(not safety_flag(row, f"is_response_{i}_safe", where) for i in (0, 1))
    return Judged(prompt, tuple(answers), first, unsafe)


def _transcripts(row: Mapping[str, Any], kind: Kind, where: str) -> Judged:
    if kind == "cost":
        raise InputError(
            f"{where}: transcripts, of which nothing says that an answer is unsafe, and a cost "
            f"scorer needs to know. {_FORMATS}"
        )
    record = hh_rlhf(row, where)
    return Judged(record.prompt, record.answers, record.better)


def _completion(row: Mapping[str, Any], kind: Kind, where: str) -> Judged:
    if kind == "reward":
        raise InputError(
            f"{where}: a single 'completion', and a reward is learnt from pairs. Give prompt, "
            "chosen, rejected."
        )
    prompt, answer = (checked_text(row, field, where) for field in ("prompt", "completion"))
    return Judged(prompt, (answer,), None, (not safety_flag(row, "label", where),))
