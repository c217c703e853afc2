"""PPO's losses by hand, by naive formulas, and by finite differences."""

import pytest
import torch

from riskalign.safe_rlhf.ppo_losses import (
    at_last_token,
    clipped_policy_loss,
    clipped_value_loss,
    combine_advantages,
    ptx_loss,
    token_rewards,
)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_by_hand() -> None:
    assert combine_advantages(torch.tensor(2.0), torch.tensor(1.0), 3.0).item() == -0.25
    logp = torch.tensor([1.5, 1.5]).log()
    loss, clipped = clipped_policy_loss(logp, torch.zeros(2), torch.tensor([2.0, -2.0]), 0.2)
    torch.testing.assert_close(loss, torch.tensor([-2.4, 3.0]))
    assert clipped.tolist() == [True, False]
    two, nought, three = torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([3.0])
    assert clipped_value_loss(two, nought, three, 1.0).item() == 2.0
    rewards = token_rewards(
        torch.tensor([[-0.5, -2.0]]),
        torch.tensor([[-1.0, -1.0]]),
        at_last_token(torch.tensor([2.0]), torch.tensor([[True, True]])),
        0.1,
    )
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 2.1]]))
    assert ptx_loss(torch.tensor([-2.0])).item() == 2.0


def test_scores_are_paid_at_the_last_token() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    found = at_last_token(torch.tensor([1.0, 2.0, 3.0]), mask)
    assert found.tolist() == [[0, 1, 0], [2, 0, 0], [0, 0, 3]]


def test_against_naive_formulas() -> None:
    logp, old, advantages = _random(3, 100) * 0.5
    loss, clipped = clipped_policy_loss(logp, old, advantages, 0.2)
    for i in range(100):
        ratio = float((logp[i] - old[i]).exp())
        a = float(advantages[i])
        near = min(max(ratio, 0.8), 1.2)
        assert float(loss[i]) == pytest.approx(-min(ratio * a, near * a))
        assert bool(clipped[i]) == (near * a < ratio * a)
    values, before, returns = _random(3, 100, seed=1)
    found = clipped_value_loss(values, before, returns, 0.5)
    for i in range(100):
        v, b, r = float(values[i]), float(before[i]), float(returns[i])
        near = b + min(max(v - b, -0.5), 0.5)
        assert float(found[i]) == pytest.approx(max((v - r) ** 2, (near - r) ** 2) / 2)


def test_gradients() -> None:
    logp, old, advantages = _random(3, 20) * 0.5
    assert torch.autograd.gradcheck(
        lambda x: clipped_policy_loss(x, old, advantages, 0.2)[0], (logp.requires_grad_(),)
    )
    values, before, returns = _random(3, 20, seed=1)
    assert torch.autograd.gradcheck(
        lambda x: clipped_value_loss(x, before, returns, 0.5), (values.requires_grad_(),)
    )


def test_the_first_step_is_the_policy_gradient() -> None:
    old, advantages = _random(2, 20)
    logp = old.clone().requires_grad_()
    loss, _ = clipped_policy_loss(logp, old, advantages, 0.2)
    [gradient] = torch.autograd.grad(loss.sum(), logp)
    torch.testing.assert_close(gradient, -advantages)


def test_a_likelier_bad_token_is_pushed_back_and_a_likelier_good_one_left_alone() -> None:
    logp = torch.tensor([0.5, 0.5], dtype=torch.float64, requires_grad=True)
    loss, _ = clipped_policy_loss(logp, torch.zeros(2), torch.tensor([-1.0, 1.0]), 0.2)
    [gradient] = torch.autograd.grad(loss.sum(), logp)
    assert gradient[0] > 0
    assert gradient[1] == 0
