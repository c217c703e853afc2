"""The loss finds the theory: tabular policies trained with the library's own losses.

Trees of 3 tokens and 3 steps, a policy's logits at each state being the hidden state of a head
that is the identity, so that the very functions of training compute statistics and loss. All pairs
of responses carry their exact labels; all trees are trained at once, which does not mix them.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from riskalign.losses import FITTED, SequenceStats, margin_loss, pair_loss, sum_by_sequence
from riskalign.risk import Risk, get_risk
from riskalign.theory import Levels, TokenMDP, accumulate, one_step, random_mdp
from riskalign.theory.solve import value_scale
from riskalign.theory.verify.claim import (
    BETA,
    Errors,
    Setting,
    claim,
    largest,
    smallest,
    total_variation,
)
from riskalign.tokens import Head, token_stats

VOCABULARY, DEPTH = 3, 3
MEASURES = ("mean", "cvar:0.4", "cvar:0.8", "erm:0.7")
_SIZES = [VOCABULARY**t for t in range(DEPTH)]  # states at each depth
_RESPONSES = list(itertools.product(range(VOCABULARY), repeat=DEPTH))
_PAIRS = torch.tensor(list(itertools.combinations(range(len(_RESPONSES)), 2))).T
_HEAD = Head(torch.eye(VOCABULARY, dtype=torch.float64))


def _tree(setting: Setting) -> TokenMDP:
    """Rewards of every token and no cost family: only returns matter here."""
    return random_mdp(
        "diffuse", setting.seed, vocabulary=VOCABULARY, depth=DEPTH, count=setting.trees
    )


def _rows(levels: Levels) -> Tensor:
    """All levels as one table of states: [count * 13, 3]."""
    return torch.cat(levels, dim=-2).flatten(0, 1)


def _levels(rows: Tensor, count: int) -> Levels:
    return tuple(rows.view(count, sum(_SIZES), VOCABULARY).split_with_sizes(_SIZES, dim=1))


def _states() -> Tensor:
    """Row of each token's state in its tree's table, response by response."""
    response = torch.arange(len(_RESPONSES))
    depths = [sum(_SIZES[:t]) + response // VOCABULARY ** (DEPTH - t) for t in range(DEPTH)]
    return torch.stack(depths, dim=-1).flatten()


def _pairs(logits: Tensor, log_ref: Levels, risk: Risk) -> tuple[SequenceStats, SequenceStats]:
    """Statistics of both responses of every pair of every tree, each field [count * pairs]."""
    count, n = log_ref[0].shape[0], len(_RESPONSES)
    rows = (torch.arange(count).unsqueeze(-1) * sum(_SIZES) + _states()).flatten()
    labels = torch.tensor(_RESPONSES).flatten().repeat(count)
    stats = token_stats(logits[rows], _HEAD, _rows(log_ref)[rows], _HEAD, labels, risk)
    sequence = torch.arange(count * n).repeat_interleave(DEPTH)
    by_response = sum_by_sequence(stats, sequence, count * n)
    first, second = (torch.arange(count)[:, None] * n + side for side in _PAIRS)
    return (
        SequenceStats(*(field[first.flatten()] for field in by_response)),
        SequenceStats(*(field[second.flatten()] for field in by_response)),
    )


def _gaps(returns: Tensor) -> Tensor:
    """Return [count, n] of each pair's first response less the second's: [count * pairs]."""
    return (returns[:, _PAIRS[0]] - returns[:, _PAIRS[1]]).flatten()


def _losses(
    logits: Tensor, log_ref: Levels, returns: Tensor, risk: Risk, loss: str, target: str
) -> Tensor:
    """Mean loss of each tree's pairs above the least possible: [count]."""
    first, second = _pairs(logits, log_ref, risk)
    gap = _gaps(returns)
    if target == "hard":
        # Each order as often as Bradley and Terry say it is labelled.
        forward = pair_loss(loss, first, second, beta=BETA).loss
        backward = pair_loss(loss, second, first, beta=BETA).loss
        value = gap.sigmoid() * forward + (-gap).sigmoid() * backward
    else:
        value = pair_loss(loss, first, second, beta=BETA, target=target, gap=gap).loss
    # What a perfect margin costs is taken off, so that digits are left for what is above it.
    least = margin_loss(gap, target if target == "gap" else "soft", gap=gap)
    return (value - least).view(len(returns), -1).mean(-1)


def train(log_ref: Levels, returns: Tensor, risk: Risk, target: str, loss: str = "rsa1") -> Levels:
    """The policies that a loss is minimised by, from the reference, by L-BFGS.

    `log_ref` has levels [count, 3**t, 3], `returns` [count, 27] are those of all responses.
    """
    logits = _rows(log_ref).clone().requires_grad_()
    descent = torch.optim.LBFGS(
        [logits], max_iter=600, history_size=60, line_search_fn="strong_wolfe",
        tolerance_grad=1e-11, tolerance_change=1e-16,
    )  # fmt: skip

    def closure() -> Tensor:
        descent.zero_grad()
        total = _losses(logits, log_ref, returns, risk, loss, target).sum()
        total.backward()
        return total

    descent.step(closure)
    return _levels(logits.detach().log_softmax(-1), len(returns))


def _closed_form(mdp: TokenMDP, risk: Risk, scale: float = 1.0) -> Levels:
    losses = tuple(-scale * level for level in mdp.reward)
    return one_step(losses, mdp.log_ref, value_scale(risk, BETA), BETA)


def _each(figure: Callable[[Risk, str], float]) -> Errors:
    """For each measure and each target that has a minimum."""
    return {
        f"{name} {target}": figure(get_risk(name), target) for name in MEASURES for target in FITTED
    }


@claim("loss", "loss-finds", "training with rsa1 on exact labels ends at π*", 1e-6)
def finds_closed_form(setting: Setting) -> Errors:
    """Total variation between the trained policy and the closed form, on half as many trees."""
    mdp = _tree(setting._replace(trees=-(-setting.trees // 2)))

    def distance(risk: Risk, target: str) -> float:
        trained = train(mdp.log_ref, accumulate(mdp.reward), risk, target)
        return largest(total_variation(trained, _closed_form(mdp, risk)))

    return _each(distance)


def _slope(setting: Setting, loss: str, risk: Risk, target: str) -> Tensor:
    """Largest derivative of the loss by a logit, at the closed form: one number a tree."""
    mdp = _tree(setting)
    logits = _rows(_closed_form(mdp, risk)).clone().requires_grad_()
    returns = accumulate(mdp.reward)
    _losses(logits, mdp.log_ref, returns, risk, loss, target).sum().backward()
    assert logits.grad is not None
    return logits.grad.view(setting.trees, -1).abs().amax(-1)


@claim("loss", "stationary", "the gradient of rsa1 vanishes at π*", 1e-9)
def first_is_stationary(setting: Setting) -> Errors:
    """The gradient of variant 1 at the closed form."""
    return _each(lambda risk, target: largest(_slope(setting, "rsa1", risk, target)))


@claim(
    "loss", "variant-2", "that of rsa2 does not: no closed form is claimed for it", 1e-4, "at least"
)
def second_is_not(setting: Setting) -> Errors:
    """The gradient of variant 2 there, on the tree where it is least."""
    return _each(lambda risk, target: smallest(_slope(setting, "rsa2", risk, target)))


@claim(
    "loss", "hard-drifts", "certain labels under `hard` have no finite minimum", 1e-12, "at least"
)
def hard_has_no_minimum(setting: Setting) -> Errors:
    """By how much a return of twice the size lowers the loss of certain labels, each time.

    The policy for returns c times as large has margins c times the gaps, so that with the better
    response always chosen the loss falls towards 0 as c grows: there is no finite minimum.
    """
    mdp = _tree(setting)
    certain = _gaps(accumulate(mdp.reward)) > 0

    def fall(risk: Risk) -> Tensor:
        losses = []
        for scale in (1.0, 2.0, 4.0, 8.0, 16.0):
            first, second = _pairs(_rows(_closed_form(mdp, risk, scale)), mdp.log_ref, risk)
            forward = pair_loss("rsa1", first, second, beta=BETA).loss
            backward = pair_loss("rsa1", second, first, beta=BETA).loss
            losses.append(torch.where(certain, forward, backward).view(setting.trees, -1).mean(-1))
        return -torch.stack(losses).diff(dim=0)

    return {name: smallest(fall(get_risk(name))) for name in MEASURES}
