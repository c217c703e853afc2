"""Prompts' hashes, halves and folds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riskalign.data.identity import as_text, text_hash
from riskalign.errors import InputError
from riskalign.scorers import Judged, split_halves
from riskalign.scorers.rows import half_of, prompt_folds


def test_text_and_its_message_are_one() -> None:
    message = [{"role": "user", "content": "Hello there"}]
    assert as_text(message) == as_text("Hello there") == "Hello there"
    assert as_text([*message, {"role": "assistant", "content": "Hi"}]) == (
        "user: Hello there\nassistant: Hi"
    )
    assert text_hash(message) == text_hash("  hello\n THERE ")
    assert text_hash("ﬁve") == text_hash("five")  # a ligature
    assert text_hash("hello") != text_hash("hallo")


@given(st.lists(st.integers(0, 30), min_size=3), st.integers(2, 5), st.integers(0, 9))
def test_folds_share_no_prompt_and_are_even(ids: list[int], folds: int, seed: int) -> None:
    hashes = [text_hash(str(i)) for i in ids]
    if len(set(ids)) < folds:
        with pytest.raises(InputError, match="cannot be split"):
            prompt_folds(hashes, folds, seed)
        return
    found = prompt_folds(hashes, folds, seed).tolist()
    of_prompt = dict(zip(ids, found, strict=True))
    assert [of_prompt[i] for i in ids] == found
    sizes = [list(of_prompt.values()).count(fold) for fold in range(folds)]
    assert max(sizes) - min(sizes) <= 1
    assert found == prompt_folds(hashes, folds, seed).tolist()


@given(st.lists(st.integers(0, 200), max_size=60))
def test_halves_are_disjoint_and_do_not_depend_on_the_rest(ids: list[int]) -> None:
    rows = [Judged(f"question {i}", ("a", "b"), 0) for i in ids]
    a, b = split_halves(rows)
    assert len(a) + len(b) == len(rows)
    assert not {row.prompt for row in a} & {row.prompt for row in b}
    for row in rows:
        alone_a, _ = split_halves([row])
        assert (row in a) == bool(alone_a)


def test_halves_are_halves_and_the_salt_makes_others() -> None:
    rows = [Judged(f"question {i}", ("a", "b"), 0) for i in range(1000)]
    a, b = split_halves(rows)
    assert 430 < len(a) < 570  # 500 and four and a half standard deviations
    other, _ = split_halves(rows, salt="other")
    assert 150 < len({r.prompt for r in a} & {r.prompt for r in other}) < 350
    assert half_of(rows, "a") == a
    assert half_of(rows, "b") == b
    assert half_of(rows, "") == rows


def test_halves_that_cannot_be() -> None:
    row = Judged("question", ("a", "b"), 0)
    with pytest.raises(InputError, match="half is 'c'"):
        half_of([row], "c")
    empty = "b" if split_halves([row])[0] else "a"
    with pytest.raises(InputError, match=f"half '{empty}' of 1 row"):
        half_of([row], empty)
