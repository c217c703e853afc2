"""Advantages by hand and against their definition."""

import pytest
import torch

from riskalign.safe_rlhf.gae import estimate_advantages, explained_variance, whiten


def _case(n: int = 5, longest: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, n, longest, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([7, 1, 3, 6, 2])
    return rewards, values, torch.arange(longest) < lengths.unsqueeze(-1)


def test_by_hand() -> None:
    found = estimate_advantages(
        torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.25]]), torch.ones(1, 2).bool(), 1.0, 0.5
    )
    assert found.advantages.tolist() == [[0.125, 0.75]]
    assert found.returns.tolist() == [[0.625, 1.0]]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.8, 0.0)])
def test_against_the_definition(gamma: float, lam: float) -> None:
    rewards, values, mask = _case()
    found = estimate_advantages(rewards, values, mask, gamma, lam)
    for i, length in enumerate(mask.sum(-1).tolist()):
        r, v = rewards[i, :length].tolist(), [*values[i, :length].tolist(), 0.0]
        for t in range(length):
            total = 0.0
            for k in range(t, length):
                total += (gamma * lam) ** (k - t) * (r[k] + gamma * v[k + 1] - v[k])
            assert float(found.advantages[i, t]) == pytest.approx(total)
            assert float(found.returns[i, t]) == pytest.approx(total + v[t])
    assert not found.advantages[~mask].any()
    assert not found.returns[~mask].any()


def test_with_lam_1_the_return_is_what_is_paid_from_there_on() -> None:
    rewards, values, mask = _case()
    found = estimate_advantages(rewards, values, mask, 1.0, 1.0)
    ahead = (rewards * mask).flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(found.returns, ahead * mask)


def test_padding_counts_for_nothing() -> None:
    rewards, values, mask = _case()
    found = estimate_advantages(rewards, values, mask)
    other = estimate_advantages(
        rewards.where(mask, torch.tensor(9.0)), values.where(mask, torch.tensor(-9.0)), mask
    )
    assert torch.equal(found.advantages, other.advantages)
    assert whiten(torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[True, True, False]])).tolist()[
        0
    ][:2] == [-1.0, 1.0]
    white = whiten(rewards, mask)
    assert float(white[mask].mean()) == pytest.approx(0.0, abs=1e-12)
    assert float(white[mask].std(correction=0)) == pytest.approx(1.0)
    assert not white[~mask].any()


def test_explained_variance() -> None:
    returns, _, mask = _case()
    assert explained_variance(returns, returns, mask) == 1.0
    assert explained_variance(returns, torch.full_like(returns, 5.0), mask) == pytest.approx(0.0)
    assert explained_variance(returns, -returns, mask) == pytest.approx(-3.0)
    assert explained_variance(torch.ones_like(returns), returns, mask) == 0.0
