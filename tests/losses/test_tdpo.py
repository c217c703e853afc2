"""TDPO against values derived by hand; the KL must be the risk."""

import math
from typing import Any

import pytest
import torch

from riskalign.errors import InputError
from riskalign.losses import pair_loss

from .cases import by_hand, random_pairs, with_kl_as_risk


@pytest.mark.parametrize(
    ("name", "options", "margin"),
    [("tdpo1", {}, 1.0), ("tdpo2", {"alpha": 0.5}, 1.5), ("tdpo2", {"alpha": 0.25}, 1.75)],
)
def test_margins_match_values_derived_by_hand(
    name: str, options: dict[str, Any], margin: float
) -> None:
    """beta = 1/2, log ratios 2 and -2, KL 1 and 3: u = 2.

    Variant 1: 2 - (3 - 1)/2 = 1. Variant 2: 2 - alpha (3 - 1)/2. The implicit rewards
    beta (log ratio + KL) are 1.5 and 0.5.
    """
    loss, metrics = pair_loss(name, *by_hand(), beta=0.5, **options)
    assert metrics["margin"].item() == pytest.approx(margin)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-margin)))
    assert metrics["rewards/chosen"].item() == pytest.approx(1.5)
    assert metrics["rewards/rejected"].item() == pytest.approx(0.5)


def test_variant_two_passes_no_gradient_through_the_chosen_kl() -> None:
    chosen, rejected = (with_kl_as_risk(stats) for stats in random_pairs())
    chosen_risk = chosen.risk.clone().requires_grad_()
    rejected_risk = rejected.risk.clone().requires_grad_()
    pair = chosen._replace(risk=chosen_risk), rejected._replace(risk=rejected_risk)
    for name, stopped in (("tdpo1", False), ("tdpo2", True)):
        loss = pair_loss(name, *pair, beta=0.2).loss.sum()
        first, second = torch.autograd.grad(loss, (chosen_risk, rejected_risk), allow_unused=True)
        assert (first is None) == stopped
        assert bool((second > 0).all())


@pytest.mark.parametrize("name", ["tdpo1", "tdpo2"])
def test_another_risk_than_the_mean_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="risk 'mean'"):
        pair_loss(name, *random_pairs(), beta=0.1)
