"""Who may judge what others trained: every branch, and the sentence that says why."""

import dataclasses
import re

import pytest

from riskalign.data.identity import text_hash
from riskalign.errors import InputError
from riskalign.scorers import Card, Scorer, check_independent
from riskalign.scorers.scorer import Family


def scorer(
    prompts: str, *, encoder: str = "one", family: Family = "embedding", seed: int = 0
) -> Scorer:
    """A scorer of which only the card counts; one prompt a letter."""
    card = Card(
        kind="cost", family=family, encoder=encoder, encoder_sha256=f"sha of {encoder}", seed=seed,
        data="data", data_sha256="", half="", rows=len(prompts), settings={}, metrics={},
        judged_on="", versions={}, prompt_hashes=tuple(sorted(map(text_hash, prompts))),
    )  # fmt: skip
    return Scorer(card, None)  # type: ignore[arg-type]


def test_each_difference_is_enough_where_prompts_are_disjoint() -> None:
    one = scorer("abc")
    for word, other in (
        ("encoder", scorer("de", encoder="two")),
        ("family", scorer("de", family="causal")),
        ("seed", scorer("de", seed=1)),
    ):
        said = check_independent(one, other)
        assert f"in {word}," in said
        assert re.findall(r" \d+", said.split(word)[-1]) == [" 3", " 2"]  # training prompts
        assert "cost scorer (embedding, one, seed 0)" in said


def test_all_trainers_count() -> None:
    said = check_independent(
        scorer("abc"), scorer("de", seed=1), scorer("ef", encoder="two", seed=1)
    )
    assert "in seed and encoder" in said
    assert " 3." in said  # prompts of both
    with pytest.raises(InputError, match=r"same encoder, family and seed \(0\) as scorer 2"):
        check_independent(scorer("abc"), scorer("de", seed=1), scorer("fg"))
    with pytest.raises(InputError, match=r"trained on 1 prompt.* of scorer 2 .*--half a"):
        check_independent(scorer("abc"), scorer("de", seed=1), scorer("cf", seed=1))


def test_a_name_is_not_what_makes_an_encoder() -> None:
    one, other = scorer("a"), scorer("b")
    renamed = Scorer(dataclasses.replace(other.card, encoder="elsewhere"), other.model)
    with pytest.raises(InputError, match="same encoder"):
        check_independent(one, renamed)


def test_a_difference_does_not_excuse_shared_prompts_nor_the_other_way() -> None:
    with pytest.raises(InputError, match="2 prompt"):
        check_independent(scorer("abc"), scorer("BC", encoder="two", family="causal", seed=1))
    with pytest.raises(InputError, match="Train it with another seed"):
        check_independent(scorer("abc"), scorer("de"))


def test_no_scorer_and_the_other_family() -> None:
    causal = scorer("b", family="causal")
    assert "differs in family" in check_independent(causal, scorer("c"))
