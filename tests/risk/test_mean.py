"""The expectation, by hand and as a Kullback-Leibler divergence."""

import torch

from riskalign.risk.measures import mean


def test_mean_matches_a_value_derived_by_hand() -> None:
    """p = (1/4, 3/4), L = (4, 0): 4/4 + 0 = 1, and the worst-case density is p."""
    probs = torch.tensor([0.25, 0.75])
    result = mean(torch.tensor([4.0, 0.0]), probs.log())
    torch.testing.assert_close(result.value, torch.tensor(1.0))
    torch.testing.assert_close(result.density, probs)


def test_mean_of_the_log_ratio_is_the_kl_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    log_ref, log_policy = torch.randn(2, 4, 9, generator=generator).log_softmax(-1)
    expected = torch.nn.functional.kl_div(
        log_policy, log_ref, log_target=True, reduction="none"
    ).sum(-1)
    torch.testing.assert_close(mean(log_ref - log_policy, log_ref).value, expected)
