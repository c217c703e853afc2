"""All responses of T tokens over a vocabulary of V, as a full tree: the exact setting.

A quantity on the tree is a tuple of T tensors ("levels"); level t is [..., V**t, V]: for every
beginning of t tokens, in lexical order, a value for each next token. Leading dimensions are a
batch of trees, or of policies on one tree, and broadcast.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from riskalign.errors import InputError
from riskalign.risk import RiskValue

Levels = tuple[Tensor, ...]
Measure = Callable[[Tensor, Tensor], RiskValue]  # of losses and log probabilities, as `Risk`


@dataclass(frozen=True)
class TokenMDP:
    """A finite-horizon token decision problem: the next state is the beginning and its token.

    `log_ref` is the reference policy (normalised, natural log, finite), `reward` and `cost` what
    each token pays and costs; a terminal reward or cost belongs to the last level. Float64.
    A response that ends early is a tree below which nothing is paid any more.

    Raises `InputError` for levels of the wrong shape, or a policy that is not normalised.
    """

    log_ref: Levels
    reward: Levels
    cost: Levels

    def __post_init__(self) -> None:
        """Check the shapes of all levels."""
        for name, levels in vars(self).items():
            if len(levels) != self.depth or self.depth == 0:
                raise InputError(f"{name}: {len(levels)} levels, log_ref has {self.depth}")
            for t, level in enumerate(levels):
                wanted = (self.vocabulary**t, self.vocabulary)
                if tuple(level.shape[-2:]) != wanted:
                    raise InputError(f"{name}: level {t} is {tuple(level.shape)}, not {wanted}")
        for level in self.log_ref:
            if not bool(level.isfinite().all()) or bool((level.logsumexp(-1).abs() > 1e-9).any()):
                raise InputError("log_ref: probabilities must be positive and sum to 1")

    @property
    def depth(self) -> int:
        """T, the tokens of a response."""
        return len(self.log_ref)

    @property
    def vocabulary(self) -> int:
        """V, the number of tokens."""
        return self.log_ref[0].shape[-1]


def accumulate(levels: Levels) -> Tensor:
    """Sum along each path: [..., V**T], one number for each response, in lexical order.

    Of a policy's log probabilities it is the response's log probability; of a reward its return.
    """
    total = levels[0].new_zeros(1)
    for level in levels:
        total = (total.unsqueeze(-1) + level).flatten(-2)
    return total


def visits(log_policy: Levels) -> Levels:
    """Probability of reaching each beginning: level t is [..., V**t]."""
    reached = [log_policy[0].new_zeros(1)]
    for level in log_policy[:-1]:
        reached.append((reached[-1].unsqueeze(-1) + level).flatten(-2))
    return tuple(log_probability.exp() for log_probability in reached)


def expected_sum(values: Levels, log_policy: Levels) -> Tensor:
    """`E[sum_t values(s_t, y_t)]` under the policy: [...]."""
    total = log_policy[0].new_zeros(())
    for at, value, level in zip(visits(log_policy), values, log_policy, strict=True):
        total = total + (at * (level.exp() * value).sum(-1)).sum(-1)
    return total


def nested(losses: Levels, log_policy: Levels, risk: Measure) -> tuple[Levels, Levels]:
    """Nested risk of a loss when the policy writes the rest: values of actions and of states.

    `Q(s, z) = loss(s, z) + V(s z)`, `V(s) = risk of Q(s, .) under the policy`, zero after the last
    token (docs/method.md, section 5; there for gains, `Phi(Z) = -rho(-Z)`). For a reward give
    `-reward`. Returns `Q` with levels [..., V**t, V] and `V` with levels [..., V**t].
    """
    q: list[Tensor] = []
    v: list[Tensor] = []
    below: Tensor | None = None
    for loss, level in zip(reversed(losses), reversed(log_policy), strict=True):
        value = loss if below is None else loss + below.unflatten(-1, (-1, loss.shape[-1]))
        value, level = torch.broadcast_tensors(value, level)
        below = risk(value, level).value
        q.append(value)
        v.append(below)
    return tuple(reversed(q)), tuple(reversed(v))


def tilt(log_policy: Levels, losses: Levels, beta: Tensor | float) -> Levels:
    """`policy * exp(-losses / beta)` at each state, normalised.

    `beta` > 0, a number or a tensor that broadcasts with the levels.
    """
    return tuple(
        (level - loss / beta).log_softmax(-1)
        for level, loss in zip(log_policy, losses, strict=True)
    )


def combine(a: Levels, b: Levels, weight_a: Tensor | float, weight_b: Tensor | float) -> Levels:
    """`weight_a * a + weight_b * b`, level by level."""
    return tuple(weight_a * x + weight_b * y for x, y in zip(a, b, strict=True))


def mix(log_first: Levels, log_second: Levels, w: Tensor | float) -> Levels:
    """The dial `first^(1-w) second^w` at each state, normalised; any real `w`."""
    return tuple(level.log_softmax(-1) for level in combine(log_first, log_second, 1 - w, w))
