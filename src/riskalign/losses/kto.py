"""Kahneman-Tversky Optimization (KTO, arXiv 2402.01306): responses judged one by one, unpaired."""

from collections.abc import Callable

import torch
from torch import Tensor

from riskalign.errors import InputError
from riskalign.losses.rsa import log_ratio
from riskalign.losses.sequence import LossOutput, SequenceStats


def kto(
    responses: SequenceStats,
    *,
    beta: float,
    desirable: Tensor,
    kl: Tensor,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> LossOutput:
    """KTO's equation 8, for B responses of which each is desirable or not.

    With the implicit reward `r = log policy(y) / reference(y)` a desirable response costs
    `desirable_weight * (1 - sigmoid(beta * (r - kl)))`, another one
    `undesirable_weight * (1 - sigmoid(beta * (kl - r)))`. No gradient passes through `kl`.

    Shapes: `desirable` [B], true or false; `kl` scalar, at least 0 (`reference_point`), in nats.
    Metrics that only one sort of response has are NaN for the other.

    Raises `InputError` for a `beta` or weights that are not positive.

    By hand: `beta = 0.5`, `r = 2`, `kl = 1` cost `1 - sigmoid(0.5) = 0.3775` where desirable and
    `1 - sigmoid(-0.5) = 0.6225` where not.
    """
    values = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
    for name, value in {"beta": beta, **values}.items():
        if not value > 0.0:
            raise InputError(f"{name} must be positive, not {value}")
    ratio = log_ratio(responses)
    margin = beta * torch.where(desirable, ratio - kl.detach(), kl.detach() - ratio)
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    # sigmoid(-m) is 1 - sigmoid(m) without cancellation
    loss = weight * (-margin).sigmoid()
    reward = beta * ratio.detach()
    metrics = {
        "kl": kl.detach().expand_as(ratio),
        "margin": margin.detach(),
        "rewards/accuracies": ((reward > beta * kl) == desirable).to(reward.dtype),
    }
    for name, values_B in {
        "rewards": reward,
        "logps": responses.logp_policy.detach(),
        "risk": responses.risk.detach(),
    }.items():
        metrics[f"{name}/chosen"] = values_B.where(desirable, torch.nan)
        metrics[f"{name}/rejected"] = values_B.where(~desirable, torch.nan)
    return LossOutput(loss, metrics)


def reference_point(
    mismatched: SequenceStats, add_up: Callable[[Tensor], Tensor] = torch.clone
) -> Tensor:
    """KTO's estimate of the policy's KL to the reference, before it is cut off at 0: a scalar.

    The mean log ratio of responses to other prompts of the batch (section 4.1 of the paper), which
    are neither desirable nor undesirable answers to the prompts that they stand behind. Where
    processes hold parts of the batch, of which some may be empty, `add_up` sums over them.
    """
    ratio = log_ratio(mismatched).detach()
    sums = add_up(torch.stack((ratio.sum(), ratio.new_tensor(len(ratio)))))
    return sums[0] / sums[1]
