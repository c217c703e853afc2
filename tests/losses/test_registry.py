"""The registry of losses: shared behaviour and refusals."""

import math
from typing import Any

import pytest
import torch

from riskalign.errors import InputError
from riskalign.losses import LOSSES, pair_loss

from .cases import random_pairs, with_kl_as_risk


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_policy_at_its_reference_costs_log_two(name: str) -> None:
    """Log ratios and risks of zero give the margin 0 and the loss log 2."""
    chosen, rejected = (
        stats._replace(
            logp_ref=stats.logp_policy,
            risk=torch.zeros_like(stats.risk),
            kl=torch.zeros_like(stats.kl),
        )
        for stats in random_pairs()
    )
    loss, metrics = pair_loss(name, chosen, rejected, beta=0.1)
    torch.testing.assert_close(loss, torch.full_like(loss, math.log(2.0)))
    assert not bool(metrics["margin"].any())


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_loss_returns_one_value_a_pair_and_detached_metrics(name: str) -> None:
    chosen, rejected = (with_kl_as_risk(stats) for stats in random_pairs())
    chosen = chosen._replace(logp_policy=chosen.logp_policy.requires_grad_())
    loss, metrics = pair_loss(name, chosen, rejected, beta=0.1)
    assert loss.shape == (6,)
    assert loss.requires_grad
    assert all(value.shape == (6,) and not value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("name", list(LOSSES))
def test_swapping_the_pair_turns_the_margin_round(name: str) -> None:
    chosen, rejected = (with_kl_as_risk(stats) for stats in random_pairs())
    there = pair_loss(name, chosen, rejected, beta=0.1).metrics["margin"]
    back = pair_loss(name, rejected, chosen, beta=0.1).metrics["margin"]
    torch.testing.assert_close(there, -back)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ppo", {"beta": 0.1}, "dpo, tdpo1, tdpo2, rsa1, rsa2"),
        ("dpo", {"beta": 0.0}, "beta must be positive"),
        ("dpo", {"beta": math.nan}, "beta must be positive"),
        ("rsa2", {"beta": 0.1, "alpha": -1.0}, "alpha must not be negative"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        pair_loss(name, *random_pairs(), **options)
