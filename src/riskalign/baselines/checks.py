"""Refusing settings, and losses that are no longer finite."""

from collections.abc import Iterable

import torch
from torch import Tensor

from riskalign.errors import InputError, TrainingDiverged

Rule = tuple[str, bool, str]  # field, whether it holds, what to give instead


def check_rules(settings: object, rules: Iterable[Rule]) -> None:
    """Raise `InputError` for the first field whose rule does not hold."""
    for name, holds, remedy in rules:
        if not holds:
            raise InputError(f"{name} is {getattr(settings, name)!r}. Give {remedy}.")


def refuse_divergence(value: Tensor, what: str, when: str) -> None:
    """Raise `TrainingDiverged` where a loss or a gradient's norm is not finite."""
    if not bool(torch.isfinite(value.detach()).all()):
        raise TrainingDiverged(
            f"The {what} became NaN or infinite at {when}. Lower learning_rate or set "
            "max_grad_norm, or train in float32."
        )
