"""The draw follows the softmax, never takes the impossible, and leaves one token a row."""

import pytest
import torch
from scipy.stats import chisquare

from riskalign.errors import InputError
from riskalign.models.sampling import Draw

NONE = torch.zeros((1, 0), dtype=torch.long)


def draw(scores: torch.Tensor) -> torch.Tensor:
    left = Draw()(NONE, scores)  # type: ignore[arg-type]
    assert left.shape == scores.shape
    assert bool((left.isfinite().sum(-1) == 1).all())
    return left.argmax(-1)


def test_frequencies_are_the_softmax() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([2.0, -1.0, 0.5, 0.0, -3.0])
    tokens = draw(logits.repeat(200_000, 1))
    counts = torch.bincount(tokens, minlength=5).double()
    expected = logits.double().softmax(-1) * len(tokens)
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_tokens_of_no_probability_are_never_drawn() -> None:
    torch.manual_seed(0)
    logits = torch.full((50_000, 6), -torch.inf)
    logits[:, [1, 4]] = torch.tensor([0.0, 1.0])
    assert set(draw(logits).tolist()) == {1, 4}
    # The same where a probability underflows rather than being excluded.
    logits = torch.zeros((50_000, 3))
    logits[:, 2] = -1e4
    assert set(draw(logits).tolist()) == {0, 1}


def test_a_peaked_row_of_a_large_vocabulary() -> None:
    torch.manual_seed(0)
    logits = torch.zeros((64, 49_152))
    logits[:, 40_000] = 60.0
    assert set(draw(logits).tolist()) == {40_000}
    assert draw(torch.zeros((64, 49_152))).unique().numel() > 60


@pytest.mark.parametrize("likeliest", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_distribution_is_refused(likeliest: bool, bad: float) -> None:
    """NaN used to draw the last token of the vocabulary."""
    scores = torch.zeros((3, 5))
    if bad == -float("inf"):
        scores[1] = bad  # nothing is possible
    else:
        scores[1, 2] = bad
    with pytest.raises(InputError, match=r"^prompt 'b': the logits of its next token are NaN"):
        Draw(["a", "b", "c"], likeliest=likeliest)(NONE, scores)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^row 1: "):
        Draw(likeliest=likeliest)(NONE, scores)  # type: ignore[arg-type]
    scores[1] = 0.0
    Draw(likeliest=likeliest)(NONE, scores)  # type: ignore[arg-type]
