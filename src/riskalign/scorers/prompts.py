"""Prompts as text, as hashes, and in groups that share none."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from riskalign.data.identity import side_of
from riskalign.errors import InputError
from riskalign.scorers.rows import Judged

_SALT = "riskalign half"


def split_halves(rows: Sequence[Judged], salt: str = _SALT) -> tuple[list[Judged], list[Judged]]:
    """Two parts that share no prompt, each about half of the prompts, for independent scorers.

    Which part a prompt is in depends on `salt` and the prompt alone, not on the other rows.
    """
    halves: tuple[list[Judged], list[Judged]] = [], []
    for row in rows:
        halves[side_of(row.prompt, (0.5,), salt)].append(row)
    return halves


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


def half_of(rows: Sequence[Judged], half: str) -> list[Judged]:
    """All rows for "", or the first (``a``) or second (``b``) part of `split_halves`.

    Raises:
        InputError: another half, or one that is empty.
    """
    if half not in ("", "a", "b"):
        raise InputError(f"half is {half!r}. Give a, b, or leave it out for all rows.")
    own = list(rows) if not half else split_halves(rows)[half == "b"]
    if not own:
        raise InputError(f"half {half!r} of {len(rows)} row(s) is empty. Give more prompts.")
    return own
