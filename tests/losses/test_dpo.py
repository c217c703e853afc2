"""DPO against a value derived by hand and its own formula."""

import math

import pytest
import torch

from riskalign.losses import pair_loss

from .cases import by_hand, random_pairs


def test_loss_and_metrics_match_values_derived_by_hand() -> None:
    """beta = 1/2, log ratios 2 and -2: rewards 1 and -1, margin 2, loss log(1 + e^-2)."""
    loss, metrics = pair_loss("dpo", *by_hand(), beta=0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2)))
    assert {name: value.item() for name, value in metrics.items()} == {
        "rewards/chosen": 1.0,
        "rewards/rejected": -1.0,
        "rewards/margins": 2.0,
        "rewards/accuracies": 1.0,
        "logps/chosen": -1.0,
        "logps/rejected": -6.0,
        "risk/chosen": 1.0,
        "risk/rejected": 3.0,
        "kl/chosen": 1.0,
        "kl/rejected": 3.0,
        "margin": 2.0,
    }


def test_gradient_is_the_published_one() -> None:
    """DPO's gradient for the chosen log probability is -beta * sigmoid(-margin)."""
    chosen, rejected = random_pairs()
    logp = chosen.logp_policy.clone().requires_grad_()
    loss, metrics = pair_loss("dpo", chosen._replace(logp_policy=logp), rejected, beta=0.3)
    (grad,) = torch.autograd.grad(loss.sum(), logp)
    torch.testing.assert_close(grad, -0.3 * (-metrics["margin"]).sigmoid())
