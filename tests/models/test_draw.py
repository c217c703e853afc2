"""The draw follows the softmax, never takes the impossible, and leaves one token a row."""

import pytest
import torch
from scipy.stats import chisquare

from riskalign.errors import InputError
from riskalign.models.draw import Draw, answer_key, levels

NONE = torch.zeros((1, 0), dtype=torch.long)


def draw(scores: torch.Tensor) -> torch.Tensor:
    uniform = levels([answer_key(0, "p", k) for k in range(len(scores))], 1)
    left = Draw(uniform)(NONE, scores)  # type: ignore[arg-type]
    assert left.shape == scores.shape
    assert bool((left.isfinite().sum(-1) == 1).all())
    return left.argmax(-1)


def test_levels_are_the_answers_own() -> None:
    """They are part of what results are: a change of these numbers changes every answer."""
    keys = [answer_key(7, "eval-0-3", k) for k in range(3)]
    found = levels(keys, 5)
    assert found[1].tolist() == levels(keys[1:], 9)[0, :5].tolist()
    assert len({*keys, answer_key(8, "eval-0-3", 0), answer_key(7, "eval-0-31", 0)}) == 5
    assert found[0].tolist() == [
        0.4332328706785976,
        0.18347608422912065,
        0.6174659009077127,
        0.1362621882816809,
        0.8918565631151865,
    ]


def test_positions_have_levels_of_their_own() -> None:
    uniform = torch.tensor([[0.1, 0.9], [0.6, 0.3]], dtype=torch.float64)
    process = Draw(uniform, start=3)
    for at in range(2):
        ids = torch.zeros((2, 3 + at), dtype=torch.long)
        left = process(ids, torch.zeros((2, 10)))  # type: ignore[arg-type]
        assert left.argmax(-1).tolist() == (uniform[:, at] * 10 + 1e-6).long().tolist()


def test_frequencies_are_the_softmax() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, 0.0, -3.0])
    tokens = draw(logits.repeat(200_000, 1))
    counts = torch.bincount(tokens, minlength=5).double()
    expected = logits.double().softmax(-1) * len(tokens)
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_tokens_of_no_probability_are_never_drawn() -> None:
    logits = torch.full((50_000, 6), -torch.inf)
    logits[:, [1, 4]] = torch.tensor([0.0, 1.0])
    assert set(draw(logits).tolist()) == {1, 4}
    # The same where a probability underflows rather than being excluded.
    logits = torch.zeros((50_000, 3))
    logits[:, 2] = -1e4
    assert set(draw(logits).tolist()) == {0, 1}


def test_a_peaked_row_of_a_large_vocabulary() -> None:
    logits = torch.zeros((64, 49_152))
    logits[:, 40_000] = 60.0
    assert set(draw(logits).tolist()) == {40_000}
    assert draw(torch.zeros((64, 49_152))).unique().numel() > 60


@pytest.mark.parametrize("likeliest", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_distribution_is_refused(likeliest: bool, bad: float) -> None:
    """NaN used to draw the last token of the vocabulary."""
    scores = torch.zeros((3, 5))
    uniform = None if likeliest else torch.full((3, 1), 0.5, dtype=torch.float64)
    if bad == -float("inf"):
        scores[1] = bad  # nothing is possible
    else:
        scores[1, 2] = bad
    with pytest.raises(InputError, match=r"^prompt 'b': the logits of its next token are NaN"):
        Draw(uniform, prompts=["a", "b", "c"])(NONE, scores)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^row 1: "):
        Draw(uniform)(NONE, scores)  # type: ignore[arg-type]
    scores[1] = 0.0
    Draw(uniform)(NONE, scores)  # type: ignore[arg-type]
