"""What a risk measure returns."""

from typing import NamedTuple

from torch import Tensor


class RiskValue(NamedTuple):
    """A risk and the worst-case density that attains it.

    Shapes: `value` is [...], `density` is [..., V].

    For a coherent measure, and for the entropic one, `density` sums to 1 over V. With
    `losses = log_probs - log_policy`, the derivative of `value` with respect to the policy's
    logits is `density.sum(-1) * policy - density`, whatever the measure.
    """

    value: Tensor
    density: Tensor
