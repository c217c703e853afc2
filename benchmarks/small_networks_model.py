"""Many small recurrent networks at once: policies on exact trees, one set of weights a run.

Shape legend: R runs (each a network on a tree of its own), S beginnings of one length, V tokens,
H hidden units, L = V**T responses of T tokens in lexical order.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from riskalign.theory import Levels, TokenMDP, accumulate
from riskalign.theory.evaluate import tail

TAILS = (0.95, 0.99)


class Networks(NamedTuple):
    """R gated recurrent units (Cho et al., 2014) with a linear head, float32.

    `start` [R, 1, H] is the state before the first token, `read` [R, V, 3H] what a token adds to
    the gates, biases included, `recur` [R, H, 3H], `keep` [R, 1, H] the candidate's own bias,
    `head` [R, H, V], `bias` [R, 1, V].
    """

    start: Tensor
    read: Tensor
    recur: Tensor
    keep: Tensor
    head: Tensor
    bias: Tensor

    def copies(self, runs: Tensor) -> "Networks":
        """The networks of the runs [M], as weights to train."""
        return Networks(*(w.detach()[runs].clone().requires_grad_() for w in self))


def fresh(runs: int, vocabulary: int, hidden: int, generator: torch.Generator) -> Networks:
    """Random networks, each from its own draws, as weights to train."""

    def normal(rows: int, columns: int, scale: float) -> Tensor:
        drawn = scale * torch.randn((runs, rows, columns), generator=generator)
        return drawn.requires_grad_()

    narrow = hidden**-0.5
    return Networks(
        normal(1, hidden, 0.5),
        normal(vocabulary, 3 * hidden, 1.0),
        normal(hidden, 3 * hidden, narrow),
        normal(1, hidden, 0.1),
        normal(hidden, vocabulary, narrow),
        normal(1, vocabulary, 0.1),
    )


def policy(net: Networks, depth: int) -> Levels:
    """Log probabilities of every next token after every beginning: level t is [R, V**t, V].

    The whole tree at once: the recurrent product is taken once for all V continuations.
    """
    hidden = net.start.shape[-1]
    state = net.start
    levels = []
    for t in range(depth):
        levels.append(torch.baddbmm(net.bias, state, net.head).log_softmax(-1))
        if t == depth - 1:
            break
        carried = torch.bmm(state, net.recur).unsqueeze(2)  # [R, S, 1, 3H]
        read = net.read.unsqueeze(1)  # [R, 1, V, 3H]
        gates = (carried[..., : 2 * hidden] + read[..., : 2 * hidden]).sigmoid()
        reset, update = gates.chunk(2, -1)
        recurrent = carried[..., 2 * hidden :] + net.keep.unsqueeze(1)
        new = torch.addcmul(read[..., 2 * hidden :], reset, recurrent).tanh()
        state = (new + update * (state.unsqueeze(2) - new)).flatten(1, 2)
    return tuple(levels)


def pretrain(net: Networks, wanted: Levels, updates: int, learning_rate: float) -> Tensor:
    """Train to the policies `wanted`; returns `KL(wanted || network)` of whole responses [R].

    Each beginning counts by its probability, mixed with one in ten of an even share.
    """
    probs = [level.exp().float() for level in wanted]
    weights = []
    for t, level in enumerate(wanted):
        at = accumulate(wanted[:t]).exp().float() if t else torch.ones(len(level), 1)
        weights.append(0.9 * at + 0.1 / level.shape[1])
    optimiser = torch.optim.Adam(list(net), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    for _ in range(updates):
        loss = torch.zeros(())
        for weight, p, level in zip(weights, probs, policy(net, len(wanted)), strict=True):
            loss = loss - (weight * (p * level).sum(-1)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    own = exact(net, len(wanted))
    leaves = accumulate(wanted)
    return (leaves.exp() * (leaves - accumulate(own))).sum(-1)


def exact(net: Networks, depth: int) -> Levels:
    """The networks' policies in float64, normalised again."""
    with torch.no_grad():
        return tuple(level.double().log_softmax(-1) for level in policy(net, depth))


class Trees(NamedTuple):
    """Rewards and costs of all responses of the runs' trees [R, L], and where each began.

    `log_ref` [R, L] are the responses' log probabilities under the reference.
    """

    reward: Tensor
    cost: Tensor
    log_ref: Tensor

    def of(self, runs: Tensor) -> "Trees":
        """The trees of the runs [M]."""
        return Trees(*(values[runs] for values in self))


def trees_of(mdp: TokenMDP, log_ref: Levels) -> Trees:
    """A batch of trees as their responses."""
    return Trees(accumulate(mdp.reward), accumulate(mdp.cost), accumulate(log_ref))


def worth(trees: Trees, log_leaves: Tensor) -> Tensor:
    """Reward, mean cost, CVaR at `TAILS` and KL to the reference in nats: [R, 5], exact."""
    probs = log_leaves.exp()
    kl = (probs * (log_leaves - trees.log_ref)).sum(-1)
    tails = [tail(trees.cost, probs, level).cvar for level in TAILS]
    return torch.stack(
        [(probs * trees.reward).sum(-1), (probs * trees.cost).sum(-1), *tails, kl], -1
    )
