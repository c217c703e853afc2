"""What a scorer is trained and judged on, and parts of it that share no prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from riskalign.data.identity import side_of, text_hash
from riskalign.data.sources import Source
from riskalign.errors import InputError
from riskalign.files.cache import file_sha256
from riskalign.scorers.rows import Judged, Kind, judged_rows

_SALT = "riskalign half"


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

    Raises:
        InputError: rows that `judged_rows` refuses, fewer than 2 prompts to train or to be judged
            on, labels that are all the same, or held-out prompts that are trained on.
    """
    name, sha256 = _identity(source)
    rows = half_of(judged_rows(source, kind), half)
    hashes = [text_hash(row.prompt) for row in rows]
    if len(set(hashes)) < 2:
        raise InputError(f"{name}: only 1 prompt to train on. Give rows with several.")
    labels = {label for row in rows for label in row.unsafe}
    if kind == "cost" and len(labels) < 2:
        raise InputError(
            f"{name}: every answer is {'unsafe' if labels.pop() else 'safe'}. A cost scorer needs "
            "answers of both kinds."
        )
    if eval_source is None:
        return TrainingData(kind, rows, hashes, [], name, sha256, half, "")
    other, _ = _identity(eval_source)
    held_out = judged_rows(eval_source, kind, split="test")
    asked = {text_hash(row.prompt) for row in held_out}
    if len(asked) < 2:
        raise InputError(
            f"{other}: only 1 prompt to judge the scorer on, and intervals are drawn over prompts. "
            "Give several."
        )
    if shared := asked & set(hashes):
        raise InputError(
            f"{other}: shares {len(shared)} prompt(s) with {name}, so it is not held out. Take "
            "them out of one of the two."
        )
    return TrainingData(kind, rows, hashes, held_out, name, sha256, half, other)


def _identity(source: Source) -> tuple[str, str]:
    """What a source is called, and its file's hash."""
    if not isinstance(source, str | Path):
        return "data", ""
    path = Path(source)
    return str(source), file_sha256(path) if path.is_file() else ""


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

    Raises:
        InputError: another half, or one that is empty.
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

    Raises:
        InputError: fewer different prompts than folds.
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
