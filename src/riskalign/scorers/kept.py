"""Long computations in pieces that an interruption leaves done."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskalign.files.atomic import write_bytes


def in_pieces(
    items: Sequence[Any],
    compute: Callable[[Sequence[Any]], NDArray[Any]],
    *,
    size: int,
    folder: Path | None,
    identity: str,
    update: Callable[[int, int], None] | None = None,
) -> NDArray[Any]:
    """`compute` of items, piece after piece of `size`, put together along the first axis.

    Args:
        items: what JSON can hold, at least one.
        compute: gives an array with a row for each item.
        folder: where pieces are kept and taken from; None keeps none.
        identity: names what `compute` is; a piece of another identity or of other items is not
            taken.
        update: called with (items done, items) before the first piece and after each.
    """
    pieces = []
    if update is not None:
        update(0, len(items))
    for at in range(0, len(items), size):
        piece = items[at : at + size]
        pieces.append(_piece(piece, compute, folder, identity))
        if update is not None:
            update(at + len(piece), len(items))
    return np.concatenate(pieces)


def _piece(
    items: Sequence[Any],
    compute: Callable[[Sequence[Any]], NDArray[Any]],
    folder: Path | None,
    identity: str,
) -> NDArray[Any]:
    if folder is None:
        return compute(items)
    key = hashlib.sha256(json.dumps([identity, items]).encode()).hexdigest()
    path = folder / f"{key}.npy"
    if path.is_file():
        found: NDArray[Any] = np.load(path, allow_pickle=False)
        return found
    made = compute(items)
    buffer = io.BytesIO()
    np.save(buffer, made, allow_pickle=False)
    write_bytes(path, buffer.getvalue())
    return made
