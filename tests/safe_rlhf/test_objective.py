"""The mathematics by hand, against definitions and finite differences."""

import math

import pytest
import torch

from riskalign.safe_rlhf.objective import (
    at_last_token,
    clipped_policy_loss,
    clipped_value_loss,
    combine_advantages,
    estimate_advantages,
    explained_variance,
    next_log_multiplier,
    token_rewards,
    whiten,
)


def test_the_multiplier_by_hand() -> None:
    assert next_log_multiplier(0.0, 3.0, 1.0, 0.1, 5.0) == pytest.approx(0.2)
    assert next_log_multiplier(math.log(2.0), 3.0, 1.0, 0.1, 5.0) == pytest.approx(
        math.log(2.0) + 0.4
    )


def test_the_multiplier_rises_when_violated_falls_when_slack_and_rests_at_the_limit() -> None:
    assert next_log_multiplier(-1.0, 2.0, 1.0, 0.1, 5.0) > -1.0
    assert next_log_multiplier(-1.0, 0.5, 1.0, 0.1, 5.0) < -1.0
    assert next_log_multiplier(-1.0, 1.0, 1.0, 0.1, 5.0) == -1.0
    assert next_log_multiplier(-1.0, 9.0, 1.0, 0.0, 5.0) == -1.0


def test_the_multiplier_has_a_maximum() -> None:
    assert next_log_multiplier(0.0, 1e6, 0.0, 1.0, 5.0) == math.log(5.0)


def test_ascent_finds_a_dual_optimum() -> None:
    """Mean cost `1 / (1 + e^λ)` against the limit 1/4: `λ = log 3`."""
    log_lambda = 0.0
    for _ in range(2000):
        cost = 1 / (1 + math.exp(math.exp(log_lambda)))
        log_lambda = next_log_multiplier(log_lambda, cost, 0.25, 0.1, 5.0)
    assert math.exp(log_lambda) == pytest.approx(math.log(3.0))


def _case(n: int = 5, longest: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, n, longest, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([7, 1, 3, 6, 2])
    return rewards, values, torch.arange(longest) < lengths.unsqueeze(-1)


def test_advantages_by_hand() -> None:
    advantages, returns = estimate_advantages(
        torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.25]]), torch.ones(1, 2).bool(), 1.0, 0.5
    )
    assert advantages.tolist() == [[0.125, 0.75]]
    assert returns.tolist() == [[0.625, 1.0]]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.8, 0.0)])
def test_against_the_definition(gamma: float, lam: float) -> None:
    rewards, values, mask = _case()
    advantages, returns = estimate_advantages(rewards, values, mask, gamma, lam)
    for i, length in enumerate(mask.sum(-1).tolist()):
        r, v = rewards[i, :length].tolist(), [*values[i, :length].tolist(), 0.0]
        for t in range(length):
            total = 0.0
            for k in range(t, length):
                total += (gamma * lam) ** (k - t) * (r[k] + gamma * v[k + 1] - v[k])
            assert float(advantages[i, t]) == pytest.approx(total)
            assert float(returns[i, t]) == pytest.approx(total + v[t])
    assert not advantages[~mask].any()
    assert not returns[~mask].any()


def test_with_lam_1_the_return_is_what_is_paid_from_there_on() -> None:
    rewards, values, mask = _case()
    _, returns = estimate_advantages(rewards, values, mask, 1.0, 1.0)
    ahead = (rewards * mask).flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(returns, ahead * mask)


def test_padding_counts_for_nothing() -> None:
    rewards, values, mask = _case()
    advantages, _ = estimate_advantages(rewards, values, mask)
    other, _ = estimate_advantages(
        rewards.where(mask, torch.tensor(9.0)), values.where(mask, torch.tensor(-9.0)), mask
    )
    assert torch.equal(advantages, other)
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


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_losses_by_hand() -> None:
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
