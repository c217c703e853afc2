"""KTO against values derived by hand, its gradient and its own formula."""

import math

import pytest
import torch

from riskalign.errors import InputError
from riskalign.losses import SequenceStats, kto, reference_point

from .cases import random_pairs


def stats(ratios: list[float]) -> SequenceStats:
    """Responses whose log ratios are these, under a reference of -3 nats."""
    ref = torch.full((len(ratios),), -3.0, dtype=torch.float64)
    logp = ref + torch.tensor(ratios, dtype=torch.float64)
    return SequenceStats(logp, ref, *(torch.ones_like(ref) for _ in range(4)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_loss_and_metrics_match_values_derived_by_hand() -> None:
    """beta 1/2, log ratios 2 and 2, KL 1: margins 1/2 and -1/2."""
    loss, metrics = kto(
        stats([2.0, 2.0]),
        beta=0.5,
        desirable=torch.tensor([True, False]),
        kl=torch.tensor(1.0),
        undesirable_weight=2.0,
    )
    assert loss.tolist() == pytest.approx([1 - sigmoid(0.5), 2 * (1 - sigmoid(-0.5))])
    assert metrics["margin"].tolist() == [0.5, -0.5]
    assert metrics["rewards/accuracies"].tolist() == [1.0, 0.0]
    assert metrics["rewards/chosen"][0] == metrics["rewards/rejected"][1] == 1.0
    assert metrics["rewards/chosen"][1].isnan()
    assert metrics["rewards/rejected"][0].isnan()


def test_gradient_passes_through_the_policy_alone() -> None:
    """d loss / d logp of a desirable response is -beta s (1 - s) at s = sigmoid(margin)."""
    one = stats([0.7])
    logp = one.logp_policy.clone().requires_grad_()
    kl = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    loss, _ = kto(one._replace(logp_policy=logp), beta=0.3, desirable=torch.tensor([True]), kl=kl)
    grad, by_kl = torch.autograd.grad(loss.sum(), (logp, kl), allow_unused=True)
    assert by_kl is None
    s = sigmoid(0.3 * 0.5)
    assert grad.item() == pytest.approx(-0.3 * s * (1 - s))


def test_gradcheck() -> None:
    chosen, _ = random_pairs()
    chosen = SequenceStats(*(values.double() for values in chosen))
    desirable = torch.arange(len(chosen.risk)) % 2 == 0

    def value(logp: torch.Tensor) -> torch.Tensor:
        kl = torch.tensor(0.1, dtype=torch.float64)
        return kto(chosen._replace(logp_policy=logp), beta=0.4, desirable=desirable, kl=kl).loss

    assert torch.autograd.gradcheck(value, chosen.logp_policy.clone().requires_grad_())


def test_no_cancellation_at_large_margins() -> None:
    found = kto(
        stats([2000.0]), beta=0.1, desirable=torch.tensor([True]), kl=torch.tensor(0.0)
    ).loss
    assert found.item() == pytest.approx(math.exp(-200.0))


def test_reference_point_is_the_mean_log_ratio() -> None:
    assert reference_point(stats([1.0, -4.0])).item() == pytest.approx(-1.5)
    # Another process has a single response, of 9.
    others = torch.tensor([9.0, 1.0])
    found = reference_point(stats([1.0, -4.0]), lambda total: total + others.to(total))
    assert found.item() == pytest.approx(2.0)


@pytest.mark.parametrize("name", ["beta", "desirable_weight", "undesirable_weight"])
def test_numbers_that_must_be_positive(name: str) -> None:
    options = {"beta": 0.1} | {name: 0.0}
    with pytest.raises(InputError, match=f"{name} must be positive, not 0.0"):
        kto(stats([1.0]), desirable=torch.tensor([True]), kl=torch.tensor(0.0), **options)
