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

    Items, at least one, are what JSON can hold; `compute` gives an array with a row for each.
    Pieces are kept in `folder`, if any, and taken from there where the items and `identity`, which
    names what `compute` is, are the same. `update` is called with (items done, items) before the
    first piece and after each.
    """
    pieces: list[NDArray[Any]] = []
    for at in range(0, len(items), size):
        if update is not None:
            update(at, len(items))
        piece = items[at : at + size]
        key = hashlib.sha256(json.dumps([identity, piece]).encode()).hexdigest()
        path = None if folder is None else folder / f"{key}.npy"
        if path is not None and path.is_file():
            pieces.append(np.load(path, allow_pickle=False))
            continue
        pieces.append(compute(piece))
        if path is not None:
            buffer = io.BytesIO()
            np.save(buffer, pieces[-1], allow_pickle=False)
            write_bytes(path, buffer.getvalue())
    if update is not None:
        update(len(items), len(items))
    return np.concatenate(pieces)
