"""The published program's tail term, by hand and against the same steps written plainly."""

import pytest
import torch

from riskalign.risk.measures import paper_code, paper_code_halves


def test_paper_code_matches_a_value_derived_by_hand() -> None:
    """p = (0.7, 0.1, 0.1, 0.1), L = (0, 1, 2, 3), level 0.5: the median of the entries is 1.5.

    Above it lie 2 and 3, so the value is 0.2 + 0.3 = 0.5: below the mean, 0.6.
    """
    probs = torch.tensor([0.7, 0.1, 0.1, 0.1])
    result = paper_code(torch.tensor([0.0, 1.0, 2.0, 3.0]), probs.log(), 0.5)
    torch.testing.assert_close(result.value, torch.tensor(0.5))
    torch.testing.assert_close(result.density, torch.tensor([0.0, 0.0, 0.1, 0.1]))


@pytest.mark.parametrize("level", [0.0, 0.05, 0.5, 0.95, 0.98])
@pytest.mark.parametrize("size", [1, 2, 7, 101])
def test_paper_code_follows_the_plain_steps(level: float, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    losses = torch.randn(5, size, generator=generator, dtype=torch.float64)
    log_probs = torch.randn(5, size, generator=generator, dtype=torch.float64).log_softmax(-1)

    def plain(part: slice) -> torch.Tensor:
        threshold = losses[:, part].quantile(1.0 - level, dim=-1, keepdim=True)
        kept = (losses[:, part] > threshold).double()
        return (log_probs[:, part].exp() * losses[:, part] * kept).sum(-1)

    torch.testing.assert_close(paper_code(losses, log_probs, level).value, plain(slice(None)))
    if size > 1:
        halves = plain(slice(0, size // 2)) + plain(slice(size // 2, None))
        torch.testing.assert_close(paper_code_halves(losses, log_probs, level).value, halves)


def test_halves_concatenate_their_densities_in_order() -> None:
    """p = 1/5 each, L = (1, 0, 2, 0, 1), level 0.5: medians 0.5 of (1, 0) and 1 of (2, 0, 1)."""
    log_probs = torch.full((5,), 0.2).log()
    result = paper_code_halves(torch.tensor([1.0, 0.0, 2.0, 0.0, 1.0]), log_probs, 0.5)
    torch.testing.assert_close(result.density, torch.tensor([0.2, 0.0, 0.2, 0.0, 0.0]))
    torch.testing.assert_close(result.value, torch.tensor(0.6))


def test_a_vocabulary_of_one_has_no_halves() -> None:
    result = paper_code_halves(torch.tensor([2.0]), torch.tensor([0.0]), 0.5)
    assert result.value.item() == 0.0
