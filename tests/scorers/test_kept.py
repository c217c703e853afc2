"""Pieces are put together in order, kept, and taken only where they belong."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from riskalign.scorers.kept import in_pieces


def squares(items: Sequence[int]) -> NDArray[np.float64]:
    return np.array([[float(item), float(item) ** 2] for item in items])


@given(st.lists(st.integers(-99, 99), min_size=1, max_size=20), st.integers(1, 7))
def test_pieces_make_the_whole(items: list[int], size: int) -> None:
    told: list[tuple[int, int]] = []
    found = in_pieces(
        items, squares, size=size, folder=None, identity="",
        update=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    np.testing.assert_array_equal(found, squares(items))
    assert told[0] == (0, len(items))
    assert told[-1] == (len(items), len(items))
    assert len(told) == 1 + -(-len(items) // size)


def test_a_kept_piece_is_taken_for_the_same_work_only(tmp_path: Path) -> None:
    def refuse(items: Sequence[int]) -> NDArray[np.float64]:
        raise AssertionError("computed again")

    first = in_pieces([1, 2, 3], squares, size=2, folder=tmp_path / "kept", identity="x")
    again = in_pieces([1, 2, 3], refuse, size=2, folder=tmp_path / "kept", identity="x")
    np.testing.assert_array_equal(first, again)
    for items, identity in (([1, 2, 4], "x"), ([1, 2, 3], "y")):
        with pytest.raises(AssertionError, match="computed again"):
            in_pieces(items, refuse, size=2, folder=tmp_path / "kept", identity=identity)
