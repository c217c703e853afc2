"""The three targets: values by hand, gradients, shared minimisers, refusals."""

import math

import pytest
import torch

from riskalign.errors import InputError
from riskalign.losses import FITTED, TARGETS, margin_loss


def test_losses_match_values_derived_by_hand() -> None:
    """At m = log 3 (sigmoid 3/4) and gap 0 (sigmoid 1/2).

    hard: -log 3/4; soft: -(log 3/4 + log 1/4)/2; gap: (log 3)^2; hard smoothed by 0.1:
    -0.9 log 3/4 - 0.1 log 1/4.
    """
    margin = torch.tensor([math.log(3.0)], dtype=torch.float64)
    gap = torch.zeros_like(margin)
    assert margin_loss(margin).item() == pytest.approx(math.log(4 / 3))
    assert margin_loss(margin, "soft", gap=gap).item() == pytest.approx(
        (math.log(4 / 3) + math.log(4)) / 2
    )
    assert margin_loss(margin, "gap", gap=gap).item() == pytest.approx(math.log(3.0) ** 2)
    by_two = margin_loss(margin + math.log(2.0), "offset", gap=gap + math.log(2.0))
    assert by_two.item() == pytest.approx(math.log(4 / 3))
    assert margin_loss(margin, label_smoothing=0.1).item() == pytest.approx(
        0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    )


@pytest.mark.parametrize("target", FITTED)
@pytest.mark.parametrize("true_gap", [-1.3, 0.0, 0.4, 2.5])
def test_all_targets_share_their_minimiser(target: str, true_gap: float) -> None:
    """With labels drawn from sigmoid(gap), the expected loss is flat at m = gap and convex.

    "hard" sees the order only, so its expectation mixes both orders.
    """
    margin = torch.tensor([true_gap], dtype=torch.float64, requires_grad=True)
    gap = torch.tensor([true_gap], dtype=torch.float64)
    probability = gap.sigmoid()

    def expected(at: torch.Tensor) -> torch.Tensor:
        if target == "hard":
            return probability * margin_loss(at) + (1 - probability) * margin_loss(-at)
        return margin_loss(at, target, gap=gap)

    (slope,) = torch.autograd.grad(expected(margin).sum(), margin)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)
    for away in (-0.5, 0.5):
        assert expected(margin.detach() + away) > expected(margin.detach())


def test_no_offset_is_hard() -> None:
    margin = torch.linspace(-3, 3, 5, dtype=torch.float64)
    found = margin_loss(margin, "offset", gap=torch.zeros_like(margin))
    torch.testing.assert_close(found, margin_loss(margin), rtol=0, atol=0)


@pytest.mark.parametrize("target", TARGETS)
def test_gradcheck(target: str) -> None:
    margin = torch.linspace(-3, 3, 5, dtype=torch.float64, requires_grad=True)
    gap = None if target == "hard" else torch.linspace(2, -1, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: margin_loss(m, target, gap=gap), margin)


def test_smoothing_moves_the_minimiser_to_the_log_odds() -> None:
    """With smoothing e the loss is flat where sigmoid(m) = 1 - e."""
    margin = torch.tensor([math.log(0.8 / 0.2)], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(margin_loss(margin, label_smoothing=0.2).sum(), margin)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)


@pytest.mark.parametrize("margin", [-1e4, 1e4])
@pytest.mark.parametrize("target", ["hard", "soft"])
def test_extreme_margins_stay_finite(margin: float, target: str) -> None:
    at = torch.tensor([margin], requires_grad=True)
    loss = margin_loss(at, target, gap=torch.zeros(1))
    (slope,) = torch.autograd.grad(loss.sum(), at)
    assert bool(loss.isfinite().all())
    assert bool(slope.isfinite().all())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "firm"}, "hard, soft, gap"),
        ({"target": "soft"}, "score_chosen and score_rejected"),
        ({"target": "gap"}, "score_chosen and score_rejected"),
        ({"target": "gap", "gap": torch.zeros(1), "label_smoothing": 0.1}, "'hard' only"),
        ({"target": "soft", "gap": torch.zeros(1), "label_smoothing": 0.1}, "'hard' only"),
        ({"label_smoothing": 0.5}, r"\[0, 0.5\)"),
        ({"label_smoothing": -0.1}, r"\[0, 0.5\)"),
        ({"label_smoothing": math.nan}, r"\[0, 0.5\)"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        margin_loss(torch.zeros(1), **options)  # type: ignore[arg-type]
