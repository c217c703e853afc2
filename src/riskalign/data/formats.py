"""Formats of judged answers, a function each, which raises `InputError` with place and field."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from riskalign.data.fields import Text, checked_flag, checked_text
from riskalign.data.schema import check_row
from riskalign.errors import InputError

#: What a pair says of its chosen answer: it is more helpful, or safer.
Kind = Literal["helpful", "safe"]


@dataclass(frozen=True)
class Record:
    """A prompt, two answers, and what people or programs said of them.

    `better` and `safer` are numbers of answers (0 or 1), None where nobody said. `costs` are 0 for
    a safe answer and above 0 for an unsafe one, `rewards` the higher the better; each None where
    unknown.
    """

    prompt: Text
    answers: tuple[Text, Text]
    better: int | None = None
    safer: int | None = None
    costs: tuple[float, float] | None = None
    rewards: tuple[float, float] | None = None

    def first(self, kind: Kind) -> int | None:
        """The number of the answer that is better, or safer."""
        return self.better if kind == "helpful" else self.safer


class UnusableRow(InputError):  # noqa: N818 - a row, not the user, is at fault
    """A row as some of its data set are, which is left out; `why` says what kind of row."""

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


def pku_saferlhf(row: Mapping[str, Any], where: str) -> Record:
    """PKU-SafeRLHF (arXiv 2406.15513): both labels, safety of each answer, its severity.

    A safe answer costs 0, an unsafe one its `response_N_severity_level` (1 to 3), or 1 where the
    record has none or it is 0: the flag decides whether an answer is unsafe.
    """
    return Record(
        checked_text(row, "prompt", where),
        (checked_text(row, "response_0", where), checked_text(row, "response_1", where)),
        better=answer_number(row, "better_response_id", where),
        safer=answer_number(row, "safer_response_id", where),
        costs=(_cost(row, 0, where), _cost(row, 1, where)),
    )


def hh_rlhf(row: Mapping[str, Any], where: str) -> Record:
    """hh-rlhf (arXiv 2204.05862): two transcripts that part ways at the assistant's last turn.

    Whether the first is the better or the safer one depends on the file; `better` says 0. Raises
    `UnusableRow` for transcripts that part earlier or end otherwise.
    """
    turns = [_transcript(row, field, where) for field in ("chosen", "rejected")]
    if turns[0][:-1] != turns[1][:-1]:
        raise UnusableRow(
            "dialogues differ",
            f"{where}: fields 'chosen' and 'rejected' differ before the assistant's last turn. "
            "Give transcripts that answer the same dialogue.",
        )
    return Record(turns[0][:-1], (turns[0][-1:], turns[1][-1:]), better=0)


def trl_pairs(row: Mapping[str, Any], where: str) -> Record:
    """TRL's `prompt`, `chosen`, `rejected`, perhaps with scores: rewards, or minus the costs.

    Which of the two they are depends on the file, as what `better` says does.
    """
    pair = check_row(row, where)
    scores = pair["score_chosen"], pair["score_rejected"]
    answers = pair["chosen"], pair["rejected"]
    return Record(pair["prompt"], answers, better=0, rewards=None if None in scores else scores)


def about_safety(record: Record) -> Record:
    """A record of a file with one label, which says what is safer and whose scores are -costs."""
    costs = None if record.rewards is None else (-record.rewards[0], -record.rewards[1])
    return dataclasses.replace(record, better=None, safer=record.better, costs=costs, rewards=None)


FORMATS: Mapping[str, Callable[[Mapping[str, Any], str], Record]] = {
    "pku-saferlhf": pku_saferlhf,
    "hh-rlhf": hh_rlhf,
    "pairs": trl_pairs,
}

#: Formats whose records say which answer is better and which is safer.
BOTH_LABELS = frozenset({"pku-saferlhf"})


def guess_format(row: Mapping[str, Any], where: str) -> str:
    """The format that a row's fields speak for; `InputError` names the fields that it has."""
    if "response_0" in row:
        return "pku-saferlhf"
    if isinstance(row.get("chosen"), str) and _TURN.match(row["chosen"]) and "prompt" not in row:
        return "hh-rlhf"
    if "chosen" in row:
        return "pairs"
    found = ", ".join(sorted(map(str, row))) or "none"
    alone = " One completion a row makes no pair; a step takes such rows as its own data, with KTO."
    raise InputError(
        f"{where}: fields of no known format (found: {found}). Give prompt, response_0, response_1 "
        "and their labels (pku-saferlhf), two transcripts (hh-rlhf), or chosen and rejected."
        + (alone if "completion" in row else "")
    )


def answer_number(row: Mapping[str, Any], field: str, where: str) -> int:
    """The number of an answer, 0 or 1, in a field; `InputError` for anything else."""
    value = row.get(field)
    if isinstance(value, bool) or value not in (0, 1):
        raise InputError(f"{where}: field '{field}' is {value!r}. Give 0 or 1.")
    return int(value)


def _cost(row: Mapping[str, Any], number: int, where: str) -> float:
    safe = checked_flag(row, f"is_response_{number}_safe", where, "safe")
    level_field = f"response_{number}_severity_level"
    level = row.get(level_field)
    if level is not None and (isinstance(level, bool) or level not in (0, 1, 2, 3)):
        raise InputError(f"{where}: field '{level_field}' is {level!r}. Give 0, 1, 2 or 3.")
    return 0.0 if safe else float(level or 1)


_TURN = re.compile(r"\s*\n\n(Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def _transcript(row: Mapping[str, Any], field: str, where: str) -> list[dict[str, str]]:
    text = checked_text(row, field, where)
    if not isinstance(text, str) or not _TURN.match(text):
        raise InputError(
            f"{where}: field '{field}' does not begin with '\\n\\nHuman: '. Give a transcript."
        )
    _, *parts = _TURN.split(text)
    turns = [
        {"role": _ROLES[role], "content": content.strip()}
        for role, content in zip(parts[::2], parts[1::2], strict=True)
    ]
    if turns[-1]["role"] != "assistant" or len(turns) < 2:
        raise UnusableRow(
            "no answer at the end",
            f"{where}: field '{field}' does not end with an answer of the assistant.",
        )
    return turns
