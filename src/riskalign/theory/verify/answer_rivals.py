"""Other policies for the tail of whole answers: of the same reward and KL, and by gradient."""

from collections.abc import Iterator

import torch
from torch import Tensor

from riskalign.theory import Levels, TokenMDP, accumulate
from riskalign.theory.evaluate import tail, tail_of_total
from riskalign.theory.tree import combine, expected_sum
from riskalign.theory.verify.claim import noise

_DRAWS = 6  # of each kind of rival
_HALVINGS = 36
_STEPS = 150
_RATE = 0.05


def at_same_reward_and_kl(
    mdp: TokenMDP, log_policy: Levels, level: float, seed: int
) -> Iterator[Tensor]:
    """By how much rivals' CVaR is lower than a policy's own: a tensor [trees, draws] for each kind.

    A rival is `ref exp(x R - y v)` with the same reward and no more KL. Its direction v is noise
    on every response, the cost, a hinge of the cost at some threshold (the policy's own quantile
    among them), or the cost with noise; x is halved in until the reward is the policy's, y until
    the KL is.
    """
    generator = torch.Generator().manual_seed(seed)
    ref, log_p = accumulate(mdp.log_ref), accumulate(log_policy)
    returns, costs = accumulate(mdp.reward), accumulate(mdp.cost)
    p = log_p.exp()
    reward, kl = (p * returns).sum(-1), (p * (log_p - ref)).sum(-1)
    cvar = tail(costs, p, level).cvar
    shape = (len(costs), _DRAWS, costs.shape[-1])
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    places = torch.linspace(0.1, 0.95, _DRAWS - 1, dtype=torch.float64)
    var = tail(costs, p, level).var
    eta = torch.cat([costs.quantile(places, dim=-1).T, var.unsqueeze(-1)], dim=-1).unsqueeze(-1)
    cost = costs.unsqueeze(1)
    hinge = (cost - eta).clamp(min=0)
    for direction in (noise, cost.expand(shape), hinge, cost + 0.3 * noise):
        v = direction / direction.std(-1, keepdim=True).clamp(min=1e-6)
        rival = _matched(ref.unsqueeze(1), returns.unsqueeze(1), v, reward[:, None], kl[:, None])
        q = rival.exp()
        # What the halving leaves of the reward and of the KL is not to count for the rival.
        missed = (reward[:, None] - (q * returns.unsqueeze(1)).sum(-1)).abs()
        over = (q * (rival - ref.unsqueeze(1))).sum(-1) - kl[:, None]
        comparable = (missed < 1e-7) & (over < 1e-7)
        lost = cvar[:, None] - tail(cost, q, level).cvar
        # Where no rival is comparable there is no finding, and the claim fails.
        yield torch.where(comparable, lost, 0.0 if comparable.any() else torch.nan)


def _matched(ref: Tensor, returns: Tensor, v: Tensor, reward: Tensor, kl: Tensor) -> Tensor:
    """Log probabilities of `ref exp(x R - y v)` at a reward and at most a KL."""

    def at(x: Tensor, y: Tensor) -> Tensor:
        logits = ref + x.unsqueeze(-1) * returns - y.unsqueeze(-1) * v
        return logits.log_softmax(-1)

    def rewarded(y: Tensor) -> Tensor:
        low, high = torch.full_like(y, -60.0) - 20 * y, torch.full_like(y, 60.0) + 20 * y
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            less = (at(middle, y).exp() * returns).sum(-1) < reward
            low, high = torch.where(less, middle, low), torch.where(less, high, middle)
        return at((low + high) / 2, y)

    low = torch.zeros(v.shape[:-1], dtype=torch.float64)
    high = torch.full_like(low, 30.0)
    for _ in range(_HALVINGS // 3):
        middle = (low + high) / 2
        policy = rewarded(middle)
        more = (policy.exp() * (policy - ref)).sum(-1) > kl
        low, high = torch.where(more, low, middle), torch.where(more, middle, high)
    return rewarded(low)


def lagrangian(
    mdp: TokenMDP, log_policy: Levels, level: float, beta: float, lambda_: float
) -> Tensor:
    """`lambda_ CVaR(C) - E[R] + beta KL` of a policy [...], which is to be lowered.

    Differentiable: at the quantile CVaR's slope by the probabilities is `(C - eta)_+ / (1 - a)`.
    """
    with torch.no_grad():
        eta = tail_of_total(mdp, log_policy, level).var.unsqueeze(-1)
    excess = (accumulate(mdp.cost) - eta).clamp(min=0) / (1 - level)
    cvar = eta.squeeze(-1) + (accumulate(log_policy).exp() * excess).sum(-1)
    kl = expected_sum(combine(log_policy, mdp.log_ref, 1.0, -1.0), log_policy)
    return lambda_ * cvar - expected_sum(mdp.reward, log_policy) + beta * kl


def by_gradient(
    mdp: TokenMDP, level: float, beta: float, lambda_: float, starts: list[Levels], seed: int
) -> Tensor:
    """The least Lagrangian that Adam on each state's logits meets: [trees, starts + 5].

    From the given starts and from 5 random policies.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = [tuple(2 * shift for shift in noise(mdp.log_ref, generator)) for _ in range(5)]
    logits = [
        torch.stack(levels, dim=1).requires_grad_() for levels in zip(*starts, *draws, strict=True)
    ]
    wide = TokenMDP(
        *(
            tuple(each.unsqueeze(1) for each in levels)
            for levels in (mdp.log_ref, mdp.reward, mdp.cost)
        )
    )
    descent = torch.optim.Adam(logits, lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(descent, _STEPS)
    least = torch.tensor(torch.inf, dtype=torch.float64)
    for _ in range(_STEPS):
        descent.zero_grad()
        policy = tuple(level_.log_softmax(-1) for level_ in logits)
        value = lagrangian(wide, policy, level, beta, lambda_)
        value.sum().backward()
        descent.step()
        schedule.step()
        least = least.minimum(value.detach())
    return least
