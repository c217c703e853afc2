"""Two steps at these temperatures must multiply to the optimum of the joint problem."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from riskalign.errors import InputError
from riskalign.pipeline.schedule import temperatures

Vector = NDArray[np.float64]


def _tilt(reference: Vector, exponent: Vector) -> Vector:
    """`reference * exp(exponent)`, normalised."""
    log_weights = np.log(reference) + exponent
    weights = np.exp(log_weights - log_weights.max())
    result: Vector = weights / weights.sum()
    return result


def _two_steps(reference: Vector, reward: Vector, cost: Vector, schedule: str, beta: float,
               lambda_: float) -> Vector:  # fmt: skip
    first, second = temperatures(beta, lambda_, schedule)
    return _tilt(_tilt(reference, reward / first), -cost / second)


def _joint_optimum(reference: Vector, reward: Vector, cost: Vector, lambda_: float,
                   kl_price: float) -> Vector:  # fmt: skip
    """Maximise `E[reward] - lambda E[cost] - kl_price KL` numerically, over softmax logits."""

    def loss(logits: Vector) -> tuple[float, Vector]:
        p = _tilt(np.ones_like(logits), logits)
        gain = reward - lambda_ * cost - kl_price * (np.log(p) - np.log(reference))
        return -float(p @ gain), -p * (gain - p @ gain)

    found = minimize(loss, np.log(reference), jac=True, method="BFGS", options={"gtol": 1e-10})
    return _tilt(np.ones_like(reference), found.x)


def _problem(seed: int) -> tuple[Vector, Vector, Vector]:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 7))
    return rng.dirichlet(np.ones(size)) + 1e-3, rng.normal(size=size), rng.exponential(size=size)


@pytest.mark.parametrize("seed", range(10))
def test_two_steps_equal_the_joint_optimum(seed: int) -> None:
    reference, reward, cost = _problem(seed)
    reference = reference / reference.sum()
    rng = np.random.default_rng(seed + 100)
    beta, lambda_ = rng.uniform(0.3, 1.5), rng.uniform(0.3, 3.0)
    for schedule, kl_price in (("objective", beta), ("both", (1 + lambda_) * beta)):
        optimum = _joint_optimum(reference, reward, cost, lambda_, kl_price)
        steps = _two_steps(reference, reward, cost, schedule, beta, lambda_)
        np.testing.assert_allclose(steps, optimum, atol=2e-6)


@settings(max_examples=50, deadline=None)
@given(beta=st.floats(0.01, 10), lambda_=st.floats(0.01, 100))
def test_paper_is_objective_at_a_smaller_multiplier(beta: float, lambda_: float) -> None:
    shrunk = lambda_ / (1 + lambda_)
    assert temperatures(beta, lambda_, "paper") == pytest.approx(
        temperatures(beta, shrunk, "objective"), rel=1e-12
    )
    # Hence its cost never weighs more than its reward.
    assert temperatures(beta, lambda_, "paper").safe > temperatures(beta, lambda_, "paper").helpful


def test_sign_of_the_cost_by_hand() -> None:
    """Two actions, uniform reference, cost (0, 1), lambda = beta = 1, no reward.

    The printed update multiplies by exp(+Q_c / 2), which gives the costly action
    e^0.5 / (1 + e^0.5) = 0.622; the optimum with KL charged twice is 1 / (1 + e^0.5) = 0.378.
    """
    uniform, cost = np.array([0.5, 0.5]), np.array([0.0, 1.0])
    printed = _tilt(uniform, cost / temperatures(1.0, 1.0, "paper").safe)
    assert printed[1] == pytest.approx(0.622, abs=5e-4)
    right = _two_steps(uniform, np.zeros(2), cost, "both", 1.0, 1.0)
    assert right[1] == pytest.approx(0.378, abs=5e-4)


def test_values_by_hand() -> None:
    assert temperatures(0.1, 2.0) == (0.1, 0.05)
    assert temperatures(0.1, 2.0, "both") == pytest.approx((0.3, 0.15))
    assert temperatures(0.1, 2.0, "paper") == pytest.approx((0.1, 0.15))


@pytest.mark.parametrize(
    ("beta", "lambda_", "schedule", "message"),
    [
        (0.0, 1.0, "objective", "beta: 0.0 is not a positive"),
        (float("nan"), 1.0, "objective", "beta: nan"),
        (0.1, 0.0, "objective", "lambda_: 0.0.*skip the safe"),
        (0.1, float("inf"), "objective", "lambda_: inf"),
        (0.1, 1.0, "papers", "objective, both, paper"),
    ],
)
def test_bad_input(beta: float, lambda_: float, schedule: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        temperatures(beta, lambda_, schedule)
