"""From data files to judged answers, and to parts of them that share no prompt.

Which of two answers is better or safer is what a scorer learns from, and which are unsafe.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from riskalign.data import Source, Text, text_hash
from riskalign.data.fields import checked_flag, checked_text, refuse_row_fields
from riskalign.data.formats import FORMATS, UnusableRow, answer_number, guess_format
from riskalign.data.identity import side_of
from riskalign.data.sources import source_rows
from riskalign.errors import InputError
from riskalign.files.cache import file_sha256

Kind = Literal["reward", "cost"]

_SALT = "riskalign half"
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


def judged_rows(source: Source, kind: Kind, *, split: str = "train") -> list[Judged]:
    """Read what a scorer of a kind learns from.

    Rows may be those of PKU-SafeRLHF (`prompt`, `response_0`, `response_1`, and for a reward
    `better_response_id`, for a cost `safer_response_id`, `is_response_0_safe`,
    `is_response_1_safe`); TRL's pairs, for a cost with `score_chosen` and `score_rejected`, minus
    the costs, of which those above 0 are unsafe; for a reward, hh-rlhf's transcripts, of which
    those that part before the last turn or end otherwise are left out; or, for a cost, TRL's
    unpaired rows, whose `label` is false where the completion is unsafe.

    `source` is a path, a hub id or rows, as `riskalign.data.load_pairs` takes them.

    Raises `InputError`: names the file, the line or row, the field and the remedy.
    """
    check_kind(kind)
    name = str(source) if isinstance(source, str | Path) else "data"
    rows, unusable = [], None
    for where, row in source_rows(source, split, name):
        refuse_row_fields(row, where)
        try:
            rows.append(_judged(row, kind, where))
        except UnusableRow as error:
            unusable = unusable or error
    if not rows:
        raise unusable or InputError(f"{name}: holds no row. {_FORMATS}")
    return rows


def _judged(row: Mapping[str, Any], kind: Kind, where: str) -> Judged:
    is_cost, first, flags = kind == "cost", None, ["label"]
    if "response_0" in row:
        fields = ["prompt", "response_0", "response_1"]
        flags = ["is_response_0_safe", "is_response_1_safe"]
    elif "completion" in row and is_cost:
        fields = ["prompt", "completion"]
    elif "completion" in row:
        raise InputError(
            f"{where}: a single 'completion', and a reward is learnt from pairs. Give prompt, "
            "chosen, rejected."
        )
    elif "chosen" in row:
        return _chosen_first(row, is_cost, where)
    else:
        raise InputError(
            f"{where}: no answers that are judged (fields found: "
            f"{', '.join(sorted(map(str, row))) or 'none'}). {_FORMATS}"
        )
    prompt, *answers = (checked_text(row, field, where) for field in fields)
    if "response_0" in row:
        first = answer_number(row, f"{'safer' if is_cost else 'better'}_response_id", where)
    unsafe = tuple(not checked_flag(row, flag, where, "safe") for flag in flags if is_cost)
    return Judged(prompt, tuple(answers), first, unsafe)


def _chosen_first(row: Mapping[str, Any], is_cost: bool, where: str) -> Judged:
    """Of pairs and transcripts, which name the better or safer answer first."""
    record = FORMATS[guess_format(row, where)](row, where)
    if is_cost and record.rewards is None:
        raise InputError(
            f"{where}: fields 'score_chosen' and 'score_rejected' (minus the costs) are "
            "missing, and a cost scorer needs them to know which answers are unsafe. Add them. "
            f"{_FORMATS}"
        )
    scores = record.rewards if is_cost and record.rewards else ()
    return Judged(record.prompt, record.answers, 0, tuple(score < 0 for score in scores))


@dataclass(frozen=True)
class TrainingData:
    """Judged rows, the hashes of their prompts, and held-out rows that share none of these.

    `source` is what the data is called, `sha256` its file's ("" where it is no file), `half` the
    part of its prompts that the rows are.
    """

    kind: Kind
    rows: list[Judged]
    hashes: list[str]
    held_out: list[Judged]
    source: str
    sha256: str
    half: str
    held_out_source: str


def training_data(
    kind: Kind, source: Source, *, half: str = "", eval_source: Source | None = None
) -> TrainingData:
    """Read and check everything before any work.

    Raises `InputError`: rows that `judged_rows` refuses, fewer than 2 prompts to train or to be
    judged on, labels that are all the same, or held-out prompts that are trained on.
    """
    rows = half_of(judged_rows(source, kind), half)
    name, hashes = _prompts(source, rows, "train on")
    is_file = isinstance(source, str | Path) and os.path.isfile(source)
    sha256 = file_sha256(Path(name)) if is_file else ""
    labels = {label for row in rows for label in row.unsafe}
    if kind == "cost" and len(labels) < 2:
        raise InputError(
            f"{name}: every answer is {'unsafe' if labels.pop() else 'safe'}. A cost scorer needs "
            "answers of both kinds."
        )
    if eval_source is None:
        return TrainingData(kind, rows, hashes, [], name, sha256, half, "")
    held_out = judged_rows(eval_source, kind, split="test")
    use = "judge the scorer on, and intervals are drawn over prompts"
    other, asked = _prompts(eval_source, held_out, use)
    if shared := set(asked) & set(hashes):
        raise InputError(
            f"{other}: shares {len(shared)} prompt(s) with {name}, so it is not held out. Take "
            "them out of one of the two."
        )
    return TrainingData(kind, rows, hashes, held_out, name, sha256, half, other)


def _prompts(source: Source, rows: Sequence[Judged], use: str) -> tuple[str, list[str]]:
    """What a source is called, and the hashes of its rows' prompts, at least 2 different ones."""
    name = str(source) if isinstance(source, str | Path) else "data"
    hashes = [text_hash(row.prompt) for row in rows]
    if len(set(hashes)) < 2:
        raise InputError(f"{name}: only 1 prompt to {use}. Give rows with several.")
    return name, hashes


def split_halves(rows: Sequence[Judged], salt: str = _SALT) -> tuple[list[Judged], list[Judged]]:
    """Two parts that share no prompt, each about half of the prompts, for independent scorers.

    Which part a prompt is in depends on `salt` and the prompt alone, not on the other rows.
    """
    halves: tuple[list[Judged], list[Judged]] = [], []
    for row in rows:
        halves[side_of(row.prompt, (0.5,), salt)].append(row)
    return halves


def half_of(rows: Sequence[Judged], half: str) -> list[Judged]:
    """All rows for "", or the first (``a``) or second (``b``) part of `split_halves`.

    Raises `InputError`: another half, or one that is empty.
    """
    if half not in ("", "a", "b"):
        raise InputError(f"half is {half!r}. Give a, b, or leave it out for all rows.")
    part = list(rows) if not half else split_halves(rows)[half == "b"]
    if not part:
        raise InputError(f"half {half!r} of {len(rows)} row(s) is empty. Give more prompts.")
    return part


def prompt_folds(hashes: Sequence[str], folds: int, seed: int) -> NDArray[np.int64]:
    """A fold's number [n] for each row; rows with equal hashes are in one fold.

    The folds hold equal numbers of different prompts, up to one.

    Raises `InputError`: fewer different prompts than folds.
    """
    different = sorted(set(hashes))
    if len(different) < folds:
        raise InputError(
            f"{len(different)} different prompt(s) cannot be split into {folds} folds. "
            f"Give at least {folds}."
        )
    order = np.random.default_rng(seed).permutation(len(different))
    fold_of = {different[i]: place % folds for place, i in enumerate(order)}
    return np.array([fold_of[each] for each in hashes], dtype=np.int64)
