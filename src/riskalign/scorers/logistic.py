"""Logistic regression with a ridge penalty chosen by cross-validation; Platt's calibration.

scikit-learn finds the minimum, in float64. Shapes: n rows, d features.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from riskalign.errors import TrainingDiverged

Floats = NDArray[np.float64]

_GOOD_ENOUGH = 1e-5


@dataclass(frozen=True)
class Logistic:
    """Log-odds `X @ weights + intercept`; weights [d]."""

    weights: Floats
    intercept: float

    def __call__(self, X: Floats) -> Floats:
        """Log-odds [n] of rows [n, d]."""
        return X @ self.weights + self.intercept


def fit_logistic(
    X: Floats,
    y: Floats,
    ridge: float,
    *,
    intercept: bool = True,
    start: Logistic | None = None,
) -> Logistic:
    """The minimum of the mean log loss in nats plus `ridge / 2 · |weights|²`, from `start` or 0.

    y [n] in [0, 1]. Without an intercept, rows that are differences of two answers' features, the
    better one's first, and y all 1 make it Bradley–Terry's model (1952).

    Raises `TrainingDiverged`: the minimum was not found.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    n = len(y)
    C = 1 / (ridge * n) if ridge else np.inf
    model = LogisticRegression(C=C, tol=1e-7, max_iter=5000, fit_intercept=intercept)
    if start is not None:
        model.warm_start = True
        model.coef_, model.intercept_ = start.weights[None], np.array([start.intercept])
    rows, labels, shares = X, y, None
    if set(np.unique(y)) != {0.0, 1.0}:  # scikit-learn wants both labels, and no others
        rows, labels = np.vstack((X, X)), np.repeat([1.0, 0.0], n)
        shares = np.concatenate((y, 1 - y))
    why = "its gradient does not vanish"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the gradient tells
            model.fit(rows, labels, shares)
        found = Logistic(model.coef_[0], float(np.ravel(model.intercept_)[0]))
        residual = (expit(found(X)) - y) / n
        gradient = np.append(X.T @ residual + ridge * found.weights, intercept * residual.sum())
        if np.abs(gradient).max() < _GOOD_ENOUGH:
            return found
    except ValueError as error:
        why = str(error)
    raise TrainingDiverged(
        f"The logistic regression found no minimum at ridge penalty {ridge:g} ({why}). Check the "
        "features for values that are huge or not finite."
    )


def cross_validate(
    X: Floats,
    y: Floats,
    folds: NDArray[np.int64],
    ridges: Sequence[float],
    *,
    intercept: bool = True,
    update: Callable[[int, int], None] | None = None,
) -> tuple[float, Floats, list[float]]:
    """Predict every fold from the others under every penalty; keep the penalty that does best.

    Returns that penalty, the held-out log-odds [n] under it, and the mean held-out log losses in
    nats, one for each penalty tried.

    `X` are rows [n, d], `y` labels [n] in {0, 1}, `folds` each row's fold [n], numbered from 0.
    `update` is called with (fits done, fits).
    """
    held_out = np.zeros((len(ridges), len(y)))
    order = sorted(range(len(ridges)), key=lambda i: -ridges[i])
    n_folds = int(folds.max()) + 1
    for fold in range(n_folds):
        out, model = folds == fold, None
        for done, i in enumerate(order, start=1 + fold * len(ridges)):
            # Each fit starts from that of the next larger penalty.
            model = fit_logistic(X[~out], y[~out], ridges[i], intercept=intercept, start=model)
            held_out[i, out] = model(X[out])
            if update is not None:
                update(done, n_folds * len(ridges))
    losses = np.mean(np.logaddexp(0.0, held_out) - y * held_out, axis=1)
    best = int(np.argmin(losses))
    return ridges[best], held_out[best], [float(loss) for loss in losses]


def platt(z: Floats, y: Floats, *, intercept: bool = True) -> Logistic:
    """Map held-out log-odds z [n] of labels y [n] in {0, 1} to calibrated ones: weights [1].

    Labels are drawn in to `(N₊ + 1) / (N₊ + 2)` and `1 / (N₋ + 2)`, so that even log-odds without
    a mistake stay finite. Source: Platt (1999), "Probabilistic outputs for support vector
    machines", section 2.2.
    """
    positive = float(y.sum())
    high, low = (positive + 1) / (positive + 2), 1 / (len(y) - positive + 2)
    targets = np.where(y > 0.5, high, low)
    return fit_logistic(z[:, None], targets, 0.0, intercept=intercept)
