"""Scorers' losses by hand, by the formula as printed, and by finite differences."""

import math

import pytest
import torch

from riskalign.scorers.train import (
    cost_model_loss,
    reward_model_loss,
    safety_sign,
)

LOG3 = torch.tensor([math.log(3.0)], dtype=torch.float64)


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_by_hand() -> None:
    zero, unsafe = torch.zeros_like(LOG3), torch.ones_like(LOG3)
    assert float(reward_model_loss(zero, zero)) == pytest.approx(math.log(2))
    assert float(reward_model_loss(LOG3, zero)) == pytest.approx(-math.log(0.75))
    assert float(safety_sign(LOG3, unsafe)) == pytest.approx(-math.log(0.75))
    assert float(safety_sign(LOG3, -unsafe)) == pytest.approx(-math.log(0.25))
    both = cost_model_loss(-LOG3, LOG3, -unsafe, unsafe)
    assert float(both) == pytest.approx(-math.log(0.9) - 2 * math.log(0.75))


def test_against_the_formula_as_printed() -> None:
    chosen, rejected = _random(2, 50)
    signs = _random(2, 50).sign()
    expected = -(rejected - chosen).sigmoid().log()
    torch.testing.assert_close(cost_model_loss(chosen, rejected), expected)
    for cost, sign in ((chosen, signs[0]), (rejected, signs[1])):
        expected = expected - (sign * cost).sigmoid().log()
    torch.testing.assert_close(cost_model_loss(chosen, rejected, *signs), expected)
    # A cost model prefers the other way round than a reward model.
    torch.testing.assert_close(
        cost_model_loss(chosen, rejected), reward_model_loss(rejected, chosen)
    )


def test_gradients() -> None:
    chosen, rejected = _random(2, 6).requires_grad_()
    signs = _random(2, 6).sign()
    assert torch.autograd.gradcheck(lambda a, b: cost_model_loss(a, b, *signs), (chosen, rejected))
    assert torch.autograd.gradcheck(reward_model_loss, (chosen, rejected))


def test_far_scores_stay_finite() -> None:
    far = torch.tensor([1e4])
    assert float(reward_model_loss(-far, far)) == 2e4
    assert float(reward_model_loss(far, -far)) == 0.0
