"""Logistic regression on cases solved by hand, and the folds' promise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riskalign.errors import TrainingDiverged
from riskalign.scorers.logistic import (
    Logistic,
    cross_validate,
    fit_logistic,
    platt,
)


def test_two_groups_solved_by_hand() -> None:
    # At x = 0 one of four is 1, at x = 1 three of four: log-odds -log 3 and log 3.
    X = np.array([[0.0]] * 4 + [[1.0]] * 4)
    y = np.array([1, 0, 0, 0, 1, 1, 1, 0], dtype=float)
    found = fit_logistic(X, y, 0.0)
    assert found.intercept == pytest.approx(-math.log(3), abs=1e-5)
    assert found.weights[0] == pytest.approx(2 * math.log(3), abs=1e-5)


def test_bradley_terry_by_hand() -> None:
    # Of four pairs with a difference of 1, three go to the first: its lead is log 3.
    found = fit_logistic(np.array([[1.0], [1.0], [1.0], [-1.0]]), np.ones(4), 0.0, intercept=False)
    assert found.intercept == 0.0
    assert found.weights[0] == pytest.approx(math.log(3), abs=1e-5)


def test_ridge_by_hand() -> None:
    # One pair with a difference of 1: softplus(-w) + ridge w²/2 has its minimum where
    # sigmoid(-w) = ridge w; at w = log 3 that is ridge = 1 / (4 log 3).
    ridge = 1 / (4 * math.log(3))
    found = fit_logistic(np.ones((1, 1)), np.ones(1), ridge, intercept=False)
    assert found.weights[0] == pytest.approx(math.log(3), abs=1e-5)


def test_a_start_changes_nothing_but_the_way() -> None:
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(40, 4)), (rng.uniform(size=40) > 0.5).astype(float)
    far = Logistic(np.full(4, 3.0), -2.0)
    one, other = fit_logistic(X, y, 0.01), fit_logistic(X, y, 0.01, start=far)
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-4)
    assert one.intercept == pytest.approx(other.intercept, abs=1e-4)


def test_features_that_are_not_finite_are_refused() -> None:
    with (
        pytest.raises(TrainingDiverged, match="no minimum at ridge penalty"),
        np.errstate(invalid="ignore"),
    ):
        fit_logistic(np.array([[np.inf], [1.0]]), np.array([0.0, 1.0]), 0.1)


def test_no_fold_predicts_itself() -> None:
    # Each fold's label is tied to a feature that no other fold has: held out, it says nothing,
    # so that all that is left is the mean of the other folds' labels.
    X = np.eye(4)
    y = np.array([1.0, 0.0, 1.0, 0.0])
    told: list[tuple[int, int]] = []
    _, held_out, _ = cross_validate(
        X, y, np.arange(4), [1e-3], update=lambda n, total: told.append((n, total))
    )
    # Without a row with label 1 two of three others are 0: the prediction leans to 0, wrongly.
    assert (np.sign(held_out) == [-1, 1, -1, 1]).all()
    assert told == [(n, 4) for n in range(1, 5)]


def test_the_penalty_is_chosen_by_the_held_out_loss() -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(60, 30))
    y = (rng.uniform(size=60) > 0.5).astype(float)  # nothing to learn: the most ridge is best
    ridge, held_out, losses = cross_validate(X, y, np.arange(60) % 3, [1e-3, 10.0])
    assert ridge == 10.0
    assert losses[1] < losses[0]
    assert losses[1] == pytest.approx(np.mean(np.logaddexp(0, held_out) - y * held_out))


def test_platt_by_hand() -> None:
    # Log-odds of ±1 of which 3 in 4 are right on each side, N₊ = N₋ = 4: the targets 5/6 and 1/6
    # average to (3 * 5/6 + 1/6) / 4 = 2/3, so that the slope is log 2 and the shift 0.
    z = np.array([1.0, 1, 1, 1, -1, -1, -1, -1])
    y = np.array([1.0, 1, 1, 0, 0, 0, 0, 1])
    found = platt(z, y)
    assert found.weights[0] == pytest.approx(math.log(2), abs=1e-5)
    assert found.intercept == pytest.approx(0, abs=1e-5)


@given(st.integers(1, 40), st.floats(0.5, 20))
def test_platt_stays_finite_without_a_mistake(n: int, size: float) -> None:
    # All n targets are (n + 1) / (n + 2): log-odds log(n + 1), whatever the margins' size.
    found = platt(np.full(n, size), np.ones(n), intercept=False)
    assert found.weights[0] * size == pytest.approx(math.log(n + 1), rel=1e-3)
