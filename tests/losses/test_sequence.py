"""Adding up tokens by sequence."""

import torch

from riskalign.losses import sum_by_sequence
from riskalign.tokens import TokenStats


def test_tokens_are_added_to_their_own_sequence_in_any_order() -> None:
    """Tokens 1 and 3 belong to sequence 0, tokens 0, 2 and 4 to sequence 2, none to sequence 1."""
    fields = torch.arange(25, dtype=torch.float64).view(5, 5)
    summed = sum_by_sequence(TokenStats(*fields), torch.tensor([2, 0, 2, 0, 2]), 3)
    expected = torch.stack(
        [fields[:, 1] + fields[:, 3], torch.zeros(5), fields[:, 0] + fields[:, 2] + fields[:, 4]]
    )
    torch.testing.assert_close(torch.stack(summed[:5], dim=1), expected)
    torch.testing.assert_close(summed.length, torch.tensor([2.0, 0.0, 3.0], dtype=torch.float64))


def test_gradients_reach_every_token() -> None:
    logp = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(4, dtype=torch.float64)
    stats = TokenStats(logp, zeros, zeros, zeros, zeros)
    summed = sum_by_sequence(stats, torch.tensor([0, 1, 1, 0]), 2)
    (summed.logp_policy * torch.tensor([2.0, 5.0])).sum().backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == [2.0, 5.0, 5.0, 2.0]
    assert not summed.kl.requires_grad


def test_no_tokens_sum_to_zero() -> None:
    summed = sum_by_sequence(TokenStats(*torch.zeros(5, 0)), torch.zeros(0, dtype=torch.long), 2)
    assert summed.risk.tolist() == [0.0, 0.0]
