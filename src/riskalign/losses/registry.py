"""The registry of pair losses and the one call that the trainer makes."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import cast

from torch import Tensor

from riskalign.errors import InputError
from riskalign.losses.dpo import dpo
from riskalign.losses.rsa import rsa1, rsa2
from riskalign.losses.sequence import LossOutput, SequenceStats
from riskalign.losses.tdpo import tdpo1, tdpo2
from riskalign.plugin import load

LOSSES: Mapping[str, Callable[..., LossOutput]] = {
    "dpo": dpo,
    "tdpo1": tdpo1,
    "tdpo2": tdpo2,
    "rsa1": rsa1,
    "rsa2": rsa2,
}
#: Losses of single responses, which need a whole batch (`kto.py`); not for `pair_loss`.
UNPAIRED = frozenset({"kto"})
_OF_ALL = frozenset({"chosen", "rejected", "beta", "target", "gap", "label_smoothing"})


def get_loss(name: str) -> Callable[..., LossOutput]:
    """The loss called `name`, a key of `LOSSES` or `package.module:function`.

    Raises `InputError` for an unknown name, or a function that does not take what all take.
    """
    if name in LOSSES:
        return LOSSES[name]
    if ":" not in name:
        choices = ", ".join(LOSSES)
        raise InputError(
            f"loss {name!r} is not known; choose one of {choices}; or package.module:function"
        )
    return _outside(name)


@cache
def _outside(name: str) -> Callable[..., LossOutput]:
    found = load(name, "loss", lambda found: found)
    taken = set(inspect.signature(found).parameters) if callable(found) else set()
    if not taken >= _OF_ALL:
        raise InputError(f"loss {name!r} does not take {', '.join(sorted(_OF_ALL - taken))}")
    return cast(Callable[..., LossOutput], found)


def own_parameters(name: str) -> frozenset[str]:
    """Names of what a loss takes beside what all take, such as alpha; none of unpaired ones."""
    if name in UNPAIRED:
        return frozenset()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = inspect.signature(get_loss(name)).parameters.values()
    return frozenset(own.name for own in taken if own.kind in kinds) - _OF_ALL


def check_options(name: str, options: Mapping[str, float] | None) -> None:
    """Raise `InputError` for an option that the loss called `name` does not take."""
    own = own_parameters(name) - {"alpha"}
    for option in options or {}:
        if option not in own:
            takes = ", ".join(sorted(own)) or "no options"
            raise InputError(f"{option!r} is no option of loss {name!r}, which takes {takes}")
    taken = inspect.signature(get_loss(name)).parameters if own else {}
    for option in sorted(own - set(options or {})):
        if taken[option].default is inspect.Parameter.empty:
            raise InputError(f"loss {name!r} needs {option!r}, which has no default")


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
    options: Mapping[str, float] | None = None,
) -> LossOutput:
    """Loss of B pairs under the loss called `name` (`get_loss`).

    Shapes: every field of `chosen` and `rejected` is [B], as is `gap`. `beta` is the temperature;
    `alpha` weighs the risk term of variant 2 and is ignored by the losses without; `options` are a
    loss's own parameters. See `margin_loss` for `target`, `gap` and `label_smoothing`.

    Raises `InputError` for an unknown name, a `beta` that is not positive, a negative `alpha`, or
    an option that the loss does not take.
    """
    loss, own = get_loss(name), own_parameters(name)
    check_options(name, options)
    if not beta > 0.0:
        raise InputError(f"beta must be positive, not {beta}")
    if not alpha >= 0.0:
        raise InputError(f"alpha must not be negative, not {alpha}")
    return loss(
        chosen,
        rejected,
        beta=beta,
        target=target,
        gap=gap,
        label_smoothing=label_smoothing,
        **({"alpha": alpha} if "alpha" in own else {}),
        **(options or {}),
    )
