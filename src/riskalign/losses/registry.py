"""The registry of pair losses and the one call that the trainer makes."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import cast

from torch import Tensor

from riskalign.errors import InputError
from riskalign.losses.rsa import dpo, rsa1, rsa2, tdpo1, tdpo2
from riskalign.losses.sequence import LossOutput, Margin, SequenceStats, margin_loss
from riskalign.plugin import load

#: `(chosen, rejected, *, beta, ...)` gives the pairs' margins, or a loss of another form with its
#: metrics, which then takes `target`, `gap` and `label_smoothing` too.
Loss = Callable[..., Margin | LossOutput]

LOSSES: Mapping[str, Loss] = {
    "dpo": dpo,
    "tdpo1": tdpo1,
    "tdpo2": tdpo2,
    "rsa1": rsa1,
    "rsa2": rsa2,
}
#: Losses of single responses, which need a whole batch (`kto.py`); not for `pair_loss`.
UNPAIRED = frozenset({"kto"})
_OF_ALL = frozenset({"chosen", "rejected", "beta"})
_OF_TARGETS = frozenset({"target", "gap", "label_smoothing"})


def get_loss(name: str) -> Loss:
    """The loss called `name`, a key of `LOSSES` or `package.module:function`.

    Raises `InputError` for an unknown name, or a function that does not take what all take.
    """
    if name in LOSSES:
        return LOSSES[name]
    if ":" in name:
        return _outside(name)
    raise InputError(
        f"loss {name!r} is not known; choose one of {', '.join(LOSSES)}; or package.module:function"
    )


@cache
def _outside(name: str) -> Loss:
    loss = load(name, "loss", lambda attribute: attribute)
    taken = set(inspect.signature(loss).parameters) if callable(loss) else set()
    if not taken >= _OF_ALL:
        raise InputError(f"loss {name!r} does not take {', '.join(sorted(_OF_ALL - taken))}")
    return cast(Loss, loss)


def own_parameters(name: str) -> dict[str, inspect.Parameter]:
    """What a loss takes beside what all take, such as alpha; nothing of unpaired ones."""
    if name in UNPAIRED:
        return {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = inspect.signature(get_loss(name)).parameters
    common = _OF_ALL | _OF_TARGETS
    return {key: own for key, own in taken.items() if own.kind in kinds and key not in common}


def check_options(name: str, options: Mapping[str, float] | None) -> None:
    """Raise `InputError` for an option that the loss called `name` does not take, or needs."""
    own = {key: parameter for key, parameter in own_parameters(name).items() if key != "alpha"}
    given = options or {}
    for option in given:
        if option not in own:
            takes = ", ".join(sorted(own)) or "no options"
            raise InputError(f"{option!r} is no option of loss {name!r}, which takes {takes}")
    for option, parameter in sorted(own.items()):
        if option not in given and parameter.default is inspect.Parameter.empty:
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
    loss's own parameters. See `margin_loss` for `target`, `gap` and `label_smoothing`. Metrics have
    TRL's names where TRL has one.

    Raises `InputError` for an unknown name, a `beta` that is not positive, a negative `alpha`, or
    an option that the loss does not take.
    """
    check_options(name, options)
    if not beta > 0.0:
        raise InputError(f"beta must be positive, not {beta}")
    if not alpha >= 0.0:
        raise InputError(f"alpha must not be negative, not {alpha}")
    loss = get_loss(name)
    parameters = inspect.signature(loss).parameters
    shared = {"alpha": alpha, "target": target, "gap": gap, "label_smoothing": label_smoothing}
    taken = {key: value for key, value in shared.items() if key in parameters}
    result = loss(chosen, rejected, beta=beta, **taken, **(options or {}))
    if isinstance(result, LossOutput):
        if not taken.keys() >= _OF_TARGETS:
            lacks = ", ".join(sorted(_OF_TARGETS - taken.keys()))
            raise InputError(f"loss {name!r} returns no Margin, but does not take {lacks}")
        return result
    margin, reward_chosen, reward_rejected = result
    metrics = {
        "rewards/chosen": reward_chosen,
        "rewards/rejected": reward_rejected,
        "rewards/margins": reward_chosen - reward_rejected,
        "rewards/accuracies": (reward_chosen > reward_rejected).to(margin.dtype),
        "logps/chosen": chosen.logp_policy,
        "logps/rejected": rejected.logp_policy,
        "risk/chosen": chosen.risk,
        "risk/rejected": rejected.risk,
        "kl/chosen": chosen.kl,
        "kl/rejected": rejected.kl,
        "margin": margin,
    }
    detached = {key: value.detach() for key, value in metrics.items()}
    loss_B = margin_loss(margin, target, gap=gap, label_smoothing=label_smoothing)
    return LossOutput(loss_B, detached)
