"""What reward and cost models are trained on; all unreduced, [B] in and [B] out.

Source: Safe RLHF (arXiv 2310.12773), section 3.2: the reward model's Bradley–Terry loss, and the
cost model's, which also asks for the right sign.
"""

from torch import Tensor
from torch.nn.functional import softplus


def reward_model_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Bradley–Terry's `-log sigmoid(chosen - rejected)` of two answers' scores.

    By hand: equal scores give `log 2`; a lead of `log 3` gives `-log(3/4)`, about 0.2877.
    """
    return softplus(rejected - chosen)


def safety_sign(cost: Tensor, sign: Tensor) -> Tensor:
    """`-log sigmoid(sign * cost)`; `sign` is +1 for an unsafe answer and -1 for a safe one.

    It makes 0 the border between safe and unsafe, which differences of costs leave open.

    By hand: the cost `log 3` of an unsafe answer gives `-log(3/4)`; of a safe one `-log(1/4)`.
    """
    return softplus(-sign * cost)


def cost_model_loss(
    chosen: Tensor,
    rejected: Tensor,
    sign_chosen: Tensor | None = None,
    sign_rejected: Tensor | None = None,
) -> Tensor:
    """The rejected answer is to cost more than the chosen, safer one, unsafe ones more than 0.

    Without signs the loss is the pairwise term alone.

    By hand: costs `-log 3` (safe) and `log 3` (unsafe) give `-log(9/10) - 2 log(3/4)`, about
    0.6807.
    """
    loss = reward_model_loss(rejected, chosen)
    if sign_chosen is not None and sign_rejected is not None:
        loss = loss + safety_sign(chosen, sign_chosen) + safety_sign(rejected, sign_rejected)
    return loss
