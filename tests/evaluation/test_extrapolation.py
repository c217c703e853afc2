"""The fitted tail: its shape, its integrals, and the interval that it gives."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

from riskalign.evaluation import empirical_cvar
from riskalign.evaluation.tails import (
    FEWEST,
    FittedTail,
    cvar_under,
    extrapolated_ends,
    fit_shape,
    fit_tail,
)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.5, 1.5])
def test_shape_is_found_in_a_large_sample(shape: float) -> None:
    exceeded = np.random.default_rng(0).random(20_000)
    excesses = -np.log(exceeded) if shape == 0 else (exceeded**-shape - 1) / shape
    assert fit_shape(3.0 * excesses) == pytest.approx(shape, abs=0.03)


@pytest.mark.parametrize("most", [4.0, 30.0, math.inf])
@pytest.mark.parametrize("shape", [-0.4, 1e-6, 0.6])
@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_mean_of_top_is_the_integral_of_the_quantile(
    most: float, shape: float, share: float
) -> None:
    fitted = FittedTail(2.0, shape, 1.5, most)
    # In the logarithm of the share, where the integrand is tame.
    integral, _ = quad(
        lambda t: float(fitted.quantile(np.array([math.exp(t)]))[0]) * math.exp(t),
        -60,
        math.log(share),
        limit=500,
    )
    assert fitted.mean_of_top(share) == pytest.approx(integral / share, rel=1e-5)


def test_by_hand() -> None:
    """Shape 1/2, scale 1, threshold 1: quantile(p) = 1 + 2 (p^-1/2 - 1), mean 1 + 1/(1 - 1/2)."""
    fitted = FittedTail(1.0, 0.5, 1.0)
    assert fitted.quantile(np.array([0.25, 1.0])).tolist() == [3.0, 1.0]
    assert fitted.mean_of_top(1.0) == pytest.approx(3.0)
    # Two of four costs lie above 1; the worst three quarters also hold the 1.
    costs, weights = np.array([0.0, 1.0, 2.0, 9.0]), np.ones(4)
    assert cvar_under(fitted, costs, weights, 3.0) == pytest.approx((2 * 3.0 + 1.0) / 3)
    assert cvar_under(fitted, costs, weights, 2.0) == pytest.approx(3.0)


def test_no_mean_without_a_largest_cost() -> None:
    assert FittedTail(1.0, 1.2, 1.0).mean_of_top(0.5) == math.inf
    assert FittedTail(1.0, 1.2, 1.0, most=50.0).mean_of_top(0.5) < 50


def test_too_few_or_equal_costs_fit_nothing() -> None:
    assert fit_tail(np.arange(FEWEST + 1.0), 30, None) is None  # one is 0, one the threshold
    assert fit_tail(np.ones(100), 30, None) is None
    assert fit_tail(np.arange(FEWEST + 2.0), 30, None) is not None


def ends(costs: np.ndarray, most: float | None = None) -> tuple[float, float] | None:
    generator = np.random.default_rng(1)
    n = len(costs)
    draws = generator.multinomial(n, np.full(n, 1 / n), size=400).astype(np.float64)
    value = empirical_cvar(costs, 0.9)
    return extrapolated_ends(costs, np.arange(n), draws, 0.9, value, 0.95, most)


def test_interval_scales_with_the_costs_and_holds_the_value() -> None:
    costs = np.random.default_rng(2).exponential(size=400)
    one, ten = ends(costs), ends(10 * costs)
    assert one is not None
    assert ten == pytest.approx((10 * one[0], 10 * one[1]))
    assert one[0] < empirical_cvar(costs, 0.9) < one[1] < 3 * one[0]


def test_a_tail_without_a_mean_has_no_upper_end_unless_costs_are_bounded() -> None:
    costs = 1 + np.random.default_rng(3).pareto(1.0, size=100)
    found, bounded = ends(costs), ends(np.minimum(costs, 200), most=200.0)
    assert found == (0.0, math.inf)
    assert bounded is not None
    assert math.isfinite(bounded[1])


def test_the_tail_may_be_wider_than_the_unsafe_answers() -> None:
    """With 6 % unsafe, the worst tenth also holds safe answers, which cost nothing."""
    costs = np.zeros(200)
    costs[:12] = np.linspace(1, 5, 12)
    found = ends(costs)
    assert found is not None
    assert found[0] < empirical_cvar(costs, 0.9) < found[1]


@pytest.mark.parametrize("n", [99, 105, 110, 119, 121])
def test_ties_give_no_nan(n: int) -> None:
    fitted = fit_tail(np.append(np.full(n, 3.0), 1.0), 200, None)
    assert fitted is None or math.isfinite(fitted.mean_of_top(0.5))
