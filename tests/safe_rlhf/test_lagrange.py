"""The multiplier's step: by hand, its direction, its bound, and where it comes to rest."""

import math

import pytest

from riskalign.safe_rlhf.lagrange import next_log_multiplier


def test_by_hand() -> None:
    assert next_log_multiplier(0.0, 3.0, 1.0, 0.1, 5.0) == pytest.approx(0.2)
    assert next_log_multiplier(math.log(2.0), 3.0, 1.0, 0.1, 5.0) == pytest.approx(
        math.log(2.0) + 0.4
    )


def test_it_rises_when_violated_falls_when_slack_and_rests_at_the_limit() -> None:
    assert next_log_multiplier(-1.0, 2.0, 1.0, 0.1, 5.0) > -1.0
    assert next_log_multiplier(-1.0, 0.5, 1.0, 0.1, 5.0) < -1.0
    assert next_log_multiplier(-1.0, 1.0, 1.0, 0.1, 5.0) == -1.0
    assert next_log_multiplier(-1.0, 9.0, 1.0, 0.0, 5.0) == -1.0


def test_it_has_a_maximum() -> None:
    assert next_log_multiplier(0.0, 1e6, 0.0, 1.0, 5.0) == math.log(5.0)


def test_ascent_finds_a_dual_optimum() -> None:
    """Mean cost `1 / (1 + e^λ)` against the limit 1/4: `λ = log 3`."""
    log_lambda = 0.0
    for _ in range(2000):
        cost = 1 / (1 + math.exp(math.exp(log_lambda)))
        log_lambda = next_log_multiplier(log_lambda, cost, 0.25, 0.1, 5.0)
    assert math.exp(log_lambda) == pytest.approx(math.log(3.0))
