"""Refusing losses that are no longer finite."""

import torch
from torch import Tensor

from riskalign.errors import TrainingDiverged


def refuse_divergence(value: Tensor, what: str, when: str) -> None:
    """Raise `TrainingDiverged` where a loss or a gradient's norm is not finite."""
    if not bool(torch.isfinite(value.detach()).all()):
        raise TrainingDiverged(
            f"The {what} became NaN or infinite at {when}. Lower learning_rate or set "
            "max_grad_norm, or train in float32."
        )
