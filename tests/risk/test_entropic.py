"""The entropic risk measure, by hand, as a Rényi divergence, and where numbers get extreme."""

import math

import pytest
import torch

from riskalign.risk.measures import entropic, mean


def test_entropic_matches_a_value_derived_by_hand() -> None:
    """p = (1/2, 1/2), L = (log 3, 0), mu = 1: log((3 + 1)/2) = log 2, q = (3, 1)/4."""
    losses = torch.tensor([math.log(3.0), 0.0])
    result = entropic(losses, torch.tensor([0.5, 0.5]).log(), 1.0)
    torch.testing.assert_close(result.value, torch.tensor(math.log(2.0)))
    torch.testing.assert_close(result.density, torch.tensor([0.75, 0.25]))


@pytest.mark.parametrize("mu", [0.1, 1.0, 3.0])
def test_entropic_risk_of_the_log_ratio_is_the_renyi_divergence(mu: float) -> None:
    """Order a = 1 + mu: D_a(p || r) = log sum p^a r^(1-a) / (a - 1)."""
    generator = torch.Generator().manual_seed(0)
    log_p, log_r = torch.randn(2, 4, 9, generator=generator, dtype=torch.float64).log_softmax(-1)
    order = 1.0 + mu
    expected = (log_p.exp() ** order * log_r.exp() ** (1.0 - order)).sum(-1).log() / (order - 1.0)
    torch.testing.assert_close(entropic(log_p - log_r, log_p, mu).value, expected)


def test_a_small_parameter_gives_the_mean_and_a_large_one_the_maximum() -> None:
    generator = torch.Generator().manual_seed(0)
    losses = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    log_probs = torch.randn(4, 9, generator=generator, dtype=torch.float64).log_softmax(-1)
    torch.testing.assert_close(
        entropic(losses, log_probs, 1e-6).value, mean(losses, log_probs).value, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        entropic(losses, log_probs, 1e5).value, losses.amax(-1), atol=1e-3, rtol=0
    )


def test_a_probability_that_underflows_still_weighs() -> None:
    """log p = -200 underflows in float32, yet with L = 300 and mu = 1 it gives 300 - 200."""
    log_probs = torch.tensor([0.0, -200.0])
    result = entropic(torch.tensor([0.0, 300.0]), log_probs, 1.0)
    torch.testing.assert_close(result.value, torch.tensor(100.0))
    torch.testing.assert_close(result.density, torch.tensor([0.0, 1.0]))
