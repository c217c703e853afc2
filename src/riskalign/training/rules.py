"""Types of a loss's settings, of `RSAConfig` and of a job's step, and what does not go together."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from riskalign.errors import InputError
from riskalign.losses import TARGETS, UNPAIRED, check_options, own_parameters
from riskalign.risk import get_risk
from riskalign.settings import NotNegative, Whole, Words, known, wrong

Risk = Annotated[Words, known(get_risk)]
LossType = Annotated[Words, known(own_parameters)]
Target = Literal[TARGETS]  # type: ignore[valid-type]
UpToHalf = Annotated[NotNegative, Field(lt=0.5)]
Tokens = Annotated[Whole, Field(ge=2)]


def loss_problems(step: Any) -> Iterator[tuple[str, str]]:
    """Fields and why they are wrong, of settings with the names of `RSAConfig`."""
    try:
        check_options(step.loss_type, step.loss_options)
    except InputError as error:
        yield "loss_options", str(error)
    hard, loss = step.target == "hard", repr(step.loss_type)
    yield from wrong(
        "risk",
        step.loss_type.startswith("tdpo") and step.risk != "mean",
        f"{step.risk!r} does not go with loss_type {loss}, which is defined by 'mean'; the rsa "
        "losses take any measure",
    )
    yield from wrong(
        "max_gap",
        step.max_gap is not None and hard,
        "needs another target; hard has no use for the size of a gap",
    )
    yield from wrong(
        "label_smoothing",
        step.label_smoothing > 0 and not hard,
        "needs target hard; the other targets have their probabilities from the scores",
    )
    if step.loss_type not in UNPAIRED:
        return
    why = f"which loss_type {loss} needs"
    yield from wrong("target", not hard, f"is not hard, {why}: it knows labels only")
    yield from wrong("label_smoothing", step.label_smoothing > 0, f"is not 0, {why}")
    yield from wrong(
        "cache_reference", step.cache_reference is not None, f"is not null, {why}: batches differ"
    )
    yield from wrong(
        "per_device_train_batch_size",
        step.per_device_train_batch_size < 2,
        f"is not at least 2, {why}: its KL is taken from other responses of the batch",
    )
