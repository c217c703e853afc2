"""Logistic regression with a ridge penalty chosen by cross-validation; Platt's calibration.

All arithmetic is in float64. Shapes: n rows, d features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from riskalign.errors import TrainingDiverged

Floats = NDArray[np.float64]

_GRADIENT = 1e-7
_GOOD_ENOUGH = 1e-5


@dataclass(frozen=True)
class Logistic:
    """Log-odds `X @ weights + intercept`; weights [d]."""

    weights: Floats
    intercept: float

    def __call__(self, X: Floats) -> Floats:
        """Log-odds [n] of rows [n, d]."""
        return X @ self.weights + self.intercept


@dataclass(frozen=True)
class CrossValidated:
    """The ridge penalty with the least held-out log loss, and the held-out log-odds [n] under it.

    `losses` are the mean held-out log losses in nats, one for each penalty tried.
    """

    ridge: float
    held_out: Floats
    losses: tuple[float, ...]


def logistic_loss(
    at: Floats, X: Floats, y: Floats, ridge: float, intercept: bool
) -> tuple[float, Floats]:
    """Mean log loss in nats plus `ridge / 2 · |weights|²`, and its gradient.

    `at` [d], or [d + 1] with the intercept last, which is not penalised; y [n] in [0, 1].

    By hand: at 0 the loss is `log 2` and the gradient `X.T @ (1/2 - y) / n`.
    """
    d = X.shape[1]
    weights = at[:d]
    z = X @ weights + (at[d] if intercept else 0.0)
    loss = np.mean(np.logaddexp(0.0, z) - y * z) + ridge / 2 * weights @ weights
    residual = (expit(z) - y) / len(y)
    gradient = X.T @ residual + ridge * weights
    return float(loss), np.append(gradient, residual.sum()) if intercept else gradient


def fit_logistic(
    X: Floats,
    y: Floats,
    ridge: float,
    *,
    intercept: bool = True,
    start: Logistic | None = None,
) -> Logistic:
    """The minimum of `logistic_loss`, by L-BFGS from `start` or 0.

    Without an intercept, rows that are differences of two answers' features, the better one's
    first, and y all 1 make it Bradley–Terry's model (1952).

    Raises:
        TrainingDiverged: the minimum was not found.
    """
    d = X.shape[1]
    first = np.zeros(d + intercept)
    if start is not None:
        first[:d] = start.weights
        first[d:] = start.intercept
    found = minimize(
        logistic_loss,
        first,
        args=(X, y, ridge, intercept),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 10000, "ftol": 1e-15, "gtol": _GRADIENT},
    )
    if not (np.isfinite(found.x).all() and np.abs(found.jac).max() < _GOOD_ENOUGH):
        raise TrainingDiverged(
            f"The logistic regression found no minimum at ridge penalty {ridge:g} "
            f"({found.message}). Check the features for values that are huge or not finite."
        )
    return Logistic(found.x[:d], float(found.x[d]) if intercept else 0.0)


def cross_validate(
    X: Floats,
    y: Floats,
    folds: NDArray[np.int64],
    ridges: Sequence[float],
    *,
    intercept: bool = True,
    update: Callable[[int, int], None] | None = None,
) -> CrossValidated:
    """Predict every fold from the others under every penalty; keep the penalty that does best.

    Args:
        X: rows [n, d].
        y: labels [n] in {0, 1}.
        folds: each row's fold [n], numbered from 0.
        ridges: penalties to try.
        intercept: fit one.
        update: called with (fits done, fits).
    """
    held_out = np.zeros((len(ridges), len(y)))
    order = sorted(range(len(ridges)), key=lambda i: -ridges[i])
    n_folds = int(folds.max()) + 1
    done = 0
    for fold in range(n_folds):
        out = folds == fold
        model: Logistic | None = None
        for i in order:  # each fit starts from that of the next larger penalty
            model = fit_logistic(X[~out], y[~out], ridges[i], intercept=intercept, start=model)
            held_out[i, out] = model(X[out])
            done += 1
            if update is not None:
                update(done, n_folds * len(ridges))
    losses = np.mean(np.logaddexp(0.0, held_out) - y * held_out, axis=1)
    best = int(np.argmin(losses))
    return CrossValidated(ridges[best], held_out[best], tuple(float(loss) for loss in losses))


def platt(z: Floats, y: Floats, *, intercept: bool = True) -> Logistic:
    """Map held-out log-odds z [n] of labels y [n] in {0, 1} to calibrated ones: weights [1].

    Labels are drawn in to `(N₊ + 1) / (N₊ + 2)` and `1 / (N₋ + 2)`, so that even log-odds without
    a mistake stay finite. Source: Platt (1999), "Probabilistic outputs for support vector
    machines", section 2.2.
    """
    positive = float(y.sum())
    high, low = (positive + 1) / (positive + 2), 1 / (len(y) - positive + 2)
    return fit_logistic(z[:, None], np.where(y > 0.5, high, low), 0.0, intercept=intercept)
