"""The registry of pair losses and the one call that the trainer makes."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from riskalign.errors import InputError
from riskalign.losses.dpo import dpo
from riskalign.losses.rsa import rsa1, rsa2
from riskalign.losses.sequence import LossOutput, SequenceStats
from riskalign.losses.tdpo import tdpo1, tdpo2

LOSSES: Mapping[str, Callable[..., LossOutput]] = {
    "dpo": dpo,
    "tdpo1": tdpo1,
    "tdpo2": tdpo2,
    "rsa1": rsa1,
    "rsa2": rsa2,
}
#: Losses of single responses, which need a whole batch (`kto.py`); not for `pair_loss`.
UNPAIRED = frozenset({"kto"})
#: Losses with a risk term of weight alpha.
WITH_ALPHA = frozenset({"tdpo2", "rsa2"})


def pair_loss(
    name: str,
    chosen: SequenceStats,
    rejected: SequenceStats,
    *,
    beta: float,
    alpha: float = 0.5,
    target: str = "hard",
    gap: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> LossOutput:
    """Loss of B pairs under the loss called `name`, a key of `LOSSES`.

    Shapes: every field of `chosen` and `rejected` is [B], as is `gap`. `beta` is the temperature;
    `alpha` weighs the risk term of variant 2 and is ignored by the other losses. See
    `margin_loss` for `target`, `gap` and `label_smoothing`.

    Raises `InputError` for an unknown name, a `beta` that is not positive or a negative `alpha`.
    """
    if name not in LOSSES:
        raise InputError(f"loss {name!r} is not known; choose one of {', '.join(LOSSES)}")
    if not beta > 0.0:
        raise InputError(f"beta must be positive, not {beta}")
    if not alpha >= 0.0:
        raise InputError(f"alpha must not be negative, not {alpha}")
    options: dict[str, Any] = {"alpha": alpha} if name in WITH_ALPHA else {}
    return LOSSES[name](
        chosen,
        rejected,
        beta=beta,
        target=target,
        gap=gap,
        label_smoothing=label_smoothing,
        **options,
    )
