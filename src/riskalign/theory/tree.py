"""All responses of T tokens over a vocabulary of V, as a full tree: the exact setting.

A quantity on the tree is a tuple of T tensors ("levels"); level t is [..., V**t, V]: for every
beginning of t tokens, in lexical order, a value for each next token. Leading dimensions are a
batch of trees, or of policies on one tree, and broadcast.
"""

from collections.abc import Callable, Sequence
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


def induce(
    step: Callable[..., tuple[Tensor, ...]], losses: Sequence[Levels], *others: Levels
) -> tuple[Levels, ...]:
    """Backward induction: `step` at each level, from the last token to the first.

    `step` gets each loss's values of actions, `Q(s, z) = loss(s, z) + V(s z)` [..., V**t, V] with V
    zero after the last token, and each of `others`' level; it returns something of the level, and
    each loss's V [..., V**t]. Returns the levels of all that it returned.
    """
    made: list[tuple[Tensor, ...]] = []
    for level in zip(*(reversed(each) for each in (*losses, *others)), strict=True):
        q = level[: len(losses)]
        if made:
            below = [value.unflatten(-1, (-1, q[0].shape[-1])) for value in made[-1][1:]]
            q = tuple(loss + value for loss, value in zip(q, below, strict=True))
        made.append(step(*q, *level[len(losses) :]))
    return tuple(zip(*reversed(made), strict=True))


def nested(losses: Levels, log_policy: Levels, risk: Measure) -> tuple[Levels, Levels]:
    """Nested risk of a loss when the policy writes the rest: values of actions and of states.

    `Q(s, z) = loss(s, z) + V(s z)`, `V(s) = risk of Q(s, .) under the policy`, zero after the last
    token (docs/method.md, section 5; there for gains, `Phi(Z) = -rho(-Z)`). For a reward give
    `-reward`. Returns `Q` with levels [..., V**t, V] and `V` with levels [..., V**t].
    """

    def step(q: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        q, level = torch.broadcast_tensors(q, level)
        return q, risk(q, level).value

    q, v = induce(step, [losses], log_policy)
    return q, v


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


def negate(levels: Levels) -> Levels:
    """A reward in cost form, or the reverse."""
    return tuple(-level for level in levels)
