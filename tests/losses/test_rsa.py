"""RSA's two losses: values by hand, identities with TDPO and DPO, gradients."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from riskalign.losses import SequenceStats, pair_loss, sum_by_sequence
from riskalign.risk import get_risk
from riskalign.tokens import Head, token_stats

from .cases import by_hand, random_pairs, with_kl_as_risk

TARGETS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.1},
    {"target": "soft", "gap": torch.linspace(-1, 2, 6, dtype=torch.float64)},
    {"target": "gap", "gap": torch.linspace(-1, 2, 6, dtype=torch.float64)},
]


@pytest.mark.parametrize(
    ("name", "options", "margin"),
    [("rsa1", {}, 1.0), ("rsa2", {"alpha": 0.5}, 1.5), ("rsa2", {"alpha": 2.0}, 0.0)],
)
def test_margins_match_values_derived_by_hand(
    name: str, options: dict[str, Any], margin: float
) -> None:
    """beta = 1/2, log ratios 2 and -2, SRR 1 and 3: u = 2.

    Variant 1: 2 - (3 - 1)/2 = 1. Variant 2: 2 - alpha (3 - 1)/2. The implicit rewards
    beta (log ratio + SRR) are 1.5 and 0.5.
    """
    loss, metrics = pair_loss(name, *by_hand(), beta=0.5, **options)
    assert metrics["margin"].item() == pytest.approx(margin)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-margin)))
    assert metrics["rewards/chosen"].item() == pytest.approx(1.5)
    assert metrics["rewards/rejected"].item() == pytest.approx(0.5)
    assert metrics["rewards/margins"].item() == pytest.approx(1.0)
    assert metrics["risk/rejected"].item() == pytest.approx(3.0)


@pytest.mark.parametrize("options", TARGETS)
@pytest.mark.parametrize(("rsa", "tdpo"), [("rsa1", "tdpo1"), ("rsa2", "tdpo2")])
def test_the_mean_as_risk_gives_tdpo(rsa: str, tdpo: str, options: dict[str, Any]) -> None:
    pair = [with_kl_as_risk(stats) for stats in random_pairs()]
    first, second = (pair_loss(name, *pair, beta=0.3, alpha=0.7, **options) for name in (rsa, tdpo))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("options", TARGETS)
def test_an_alpha_of_zero_gives_dpo(options: dict[str, Any]) -> None:
    pair = random_pairs()
    first = pair_loss("rsa2", *pair, beta=0.3, alpha=0.0, **options)
    second = pair_loss("dpo", *pair, beta=0.3, **options)
    torch.testing.assert_close(first.loss, second.loss)
    torch.testing.assert_close(first.metrics["margin"], second.metrics["margin"])


def test_the_margin_of_variant_one_is_the_difference_of_its_implicit_rewards() -> None:
    chosen, rejected = random_pairs()
    metrics = pair_loss("rsa1", chosen, rejected, beta=0.3).metrics
    torch.testing.assert_close(metrics["margin"], metrics["rewards/margins"])


def test_variant_two_passes_no_gradient_through_the_chosen_risk() -> None:
    chosen, rejected = random_pairs()
    chosen_risk = chosen.risk.clone().requires_grad_()
    rejected_risk = rejected.risk.clone().requires_grad_()
    pair = chosen._replace(risk=chosen_risk), rejected._replace(risk=rejected_risk)
    for name, stopped in (("rsa1", False), ("rsa2", True)):
        loss = pair_loss(name, *pair, beta=0.2).loss.sum()
        first, second = torch.autograd.grad(loss, (chosen_risk, rejected_risk), allow_unused=True)
        assert (first is None) == stopped
        assert bool((second > 0).all())


@pytest.mark.parametrize("name", ["dpo", "rsa1", "rsa2"])
@pytest.mark.parametrize("options", TARGETS)
def test_gradcheck(name: str, options: dict[str, Any]) -> None:
    chosen, rejected = random_pairs()

    def function(*values: Tensor) -> Tensor:
        first = chosen._replace(logp_policy=values[0])
        second = rejected._replace(logp_policy=values[1], risk=values[3])
        if name == "rsa1":
            first = first._replace(risk=values[2])
        return pair_loss(name, first, second, beta=0.3, **options).loss

    inputs = [chosen.logp_policy, rejected.logp_policy, chosen.risk, rejected.risk]
    assert torch.autograd.gradcheck(function, [value.clone().requires_grad_() for value in inputs])


@pytest.mark.parametrize("name", ["rsa1", "rsa2"])
def test_cvar_at_zero_is_the_mean_from_hidden_states_to_gradient(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, hidden_ref = torch.randn(2, 12, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(9, (12,), generator=generator)
    sequence = torch.tensor([0] * 3 + [1] * 4 + [2] * 2 + [3] * 3)
    results = []
    for spec in ("cvar:0.0", "mean"):
        leaf = hidden.clone().requires_grad_()
        stats = token_stats(leaf, Head(weight), hidden_ref, Head(weight), labels, get_risk(spec))
        summed = sum_by_sequence(stats, sequence, 4)
        chosen = SequenceStats(*(value[:2] for value in summed))
        rejected = SequenceStats(*(value[2:] for value in summed))
        loss, metrics = pair_loss(name, chosen, rejected, beta=0.2)
        results.append((loss, torch.autograd.grad(loss.sum(), leaf)[0], metrics))
    torch.testing.assert_close(results[0], results[1])
