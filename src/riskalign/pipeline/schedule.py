"""Temperatures of the two steps, from one KL price and one cost multiplier.

Sources: RSA (arXiv 2512.24263) and SACPO (arXiv 2404.11049), re-derived in docs/method.md.
"""

import math
from typing import Literal, NamedTuple

from riskalign.errors import InputError

Schedule = Literal["objective", "both", "paper"]


class Temperatures(NamedTuple):
    """The `beta` of each step's loss; they belong to the kind of step, in whichever order."""

    helpful: float
    safe: float


def temperatures(beta: float, lambda_: float, schedule: str = "objective") -> Temperatures:
    """Temperatures at which the two steps multiply to the optimum of the constrained problem.

    With reward value `Q_r`, cost value `Q_c`, multiplier `lambda_` and KL price `beta`, the
    problem `max_p E_p[Q_r] - beta KL(p || ref)` subject to `E_p[Q_c] <= limit` has the optimum
    `ref exp((Q_r - lambda_ Q_c) / beta)` up to its norm, which is the helpful step's
    `ref exp(Q_r / helpful)` times the safe step's `exp(-Q_c / safe)`.

    - `objective`: the reward pays for KL, the constraint does not: `(beta, beta / lambda_)`.
    - `both`: the constraint pays too, so KL costs `(1 + lambda_) beta` in all:
      `((1 + lambda_) beta, (1 + lambda_) beta / lambda_)`.
    - `paper`: as printed in RSA, `(beta, (1 + lambda_) beta / lambda_)`. It is `objective` with
      `lambda_ / (1 + lambda_)` for `lambda_`, so cost never outweighs reward.

    Raises `InputError` unless `beta` and `lambda_` are positive and finite and the schedule known.
    """
    if not 0 < beta < math.inf:
        raise InputError(f"beta: {beta} is not a positive number.")
    if not 0 < lambda_ < math.inf:
        why = "not a positive number; to leave the cost out, skip the safe step (safe.skip: true)"
        raise InputError(f"lambda_: {lambda_} is {why}.")
    both = 1 + lambda_
    factors = {"objective": (1, 1), "both": (both, both), "paper": (1, both)}
    if schedule not in factors:
        raise InputError(f"schedule: {schedule!r} is not one of {', '.join(factors)}.")
    helpful, safe = factors[schedule]
    return Temperatures(helpful * beta, safe * beta / lambda_)
