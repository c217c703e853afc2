"""Equal prompts are equal whatever their dress, and sides depend on the prompt alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riskalign.data.identity import as_text, side_of, text_hash


def test_case_spacing_and_form_make_no_difference() -> None:
    message = [{"role": "user", "content": "Open  the\ndoor"}]
    assert text_hash("open the door ") == text_hash(message)
    assert text_hash("caf\u00e9") == text_hash("cafe\u0301")
    assert text_hash("open the door") != text_hash("open a door")


def test_several_messages_keep_their_roles() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert as_text(turns) == "user: a\nassistant: b"


def test_shares_are_met() -> None:
    sides = [side_of(f"prompt {i}", (0.1, 0.4), "salt") for i in range(4000)]
    # Binomial standard deviations of 0.5 and 0.8 points.
    assert sides.count(0) / 4000 == pytest.approx(0.1, abs=0.02)
    assert sides.count(1) / 4000 == pytest.approx(0.4, abs=0.03)


@given(prompt=st.text(max_size=30), share=st.floats(0, 1))
def test_whole_shares(prompt: str, share: float) -> None:
    assert side_of(prompt, (), "salt") == 0
    assert side_of(prompt, (0.0, 0.0), "salt") == 2
    assert side_of(prompt, (1.0,), "salt") == 0
    assert side_of(prompt, (share,), "salt") == side_of(f" {prompt}  ", (share,), "salt")


def test_the_salt_matters() -> None:
    prompts = [f"prompt {i}" for i in range(200)]
    first, second = ([side_of(p, (0.5,), salt) for p in prompts] for salt in ("a", "b"))
    assert 50 < sum(a != b for a, b in zip(first, second, strict=True)) < 150
