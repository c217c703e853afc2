"""What reward and cost models are trained on.

Source: Safe RLHF (arXiv 2310.12773), section 3.2: the reward model's Bradley–Terry loss, and the
cost model's, which also asks for the right sign. All functions are unreduced: [B] in, [B] out.
"""

from torch import Tensor
from torch.nn.functional import softplus


def bradley_terry(better: Tensor, worse: Tensor) -> Tensor:
    """`-log sigmoid(better - worse)` [B], of the scores [B] of two answers to the same prompt.

    By hand: equal scores give `log 2`; a lead of `log 3` gives `-log(3/4)`, about 0.2877.
    """
    return softplus(worse - better)


def safety_sign(cost: Tensor, sign: Tensor) -> Tensor:
    """`-log sigmoid(sign * cost)` [B]; `sign` is +1 for an unsafe answer and -1 for a safe one.

    It makes 0 the border between safe and unsafe, which differences of costs leave open.

    By hand: the cost `log 3` of an unsafe answer gives `-log(3/4)`; of a safe one `-log(1/4)`.
    """
    return softplus(-sign * cost)


def reward_model_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """The reward model's loss [B]: the chosen answer is to score higher."""
    return bradley_terry(chosen, rejected)


def cost_model_loss(
    chosen: Tensor,
    rejected: Tensor,
    sign_chosen: Tensor | None = None,
    sign_rejected: Tensor | None = None,
) -> Tensor:
    """The cost model's loss [B]: the rejected answer costs more, unsafe ones more than 0.

    `chosen` and `rejected` are costs [B]; the chosen answer is the safer one. Without signs the
    loss is the pairwise term alone.

    By hand: costs `-log 3` (safe) and `log 3` (unsafe) give `-log(9/10) - 2 log(3/4)`, about
    0.6807.
    """
    loss = bradley_terry(rejected, chosen)
    if sign_chosen is not None and sign_rejected is not None:
        loss = loss + safety_sign(chosen, sign_chosen) + safety_sign(rejected, sign_rejected)
    return loss
