"""The population minimiser of variant 1 is the risk-aware optimum of docs/method.md, section 5.

A tabular policy on a tree of 3 tokens and 2 steps, its logits being the hidden states of a head
that is the identity, is trained on all pairs of responses with their exact labels.
"""

import itertools

import pytest
import torch
from torch import Tensor

from riskalign.losses import SequenceStats, pair_loss, sum_by_sequence
from riskalign.risk import Risk, get_risk
from riskalign.tokens import Head, token_stats

VOCABULARY, BETA = 3, 0.5
# State 0 is the prompt, state 1 + z the one after token z; responses are (first, second token).
RESPONSES = list(itertools.product(range(VOCABULARY), repeat=2))
STATES = torch.tensor([[0, 1 + first] for first, _ in RESPONSES]).flatten()
LABELS = torch.tensor(RESPONSES).flatten()
SEQUENCE = torch.arange(len(RESPONSES)).repeat_interleave(2)
PAIRS = torch.tensor(list(itertools.combinations(range(len(RESPONSES)), 2))).T
HEAD = Head(torch.eye(VOCABULARY, dtype=torch.float64))


def on_values(risk: Risk) -> Risk:
    """The measure on values that `risk` on log ratios stands for."""
    if risk.name == "erm":
        assert risk.parameter is not None
        return Risk("erm", risk.parameter / BETA)
    return risk


def optimum(log_ref: Tensor, returns: Tensor, risk: Risk) -> Tensor:
    """Log probabilities [4, 3] of `ref * exp(Q / beta)`, Q nested from the returns [3, 3]."""
    below = -risk(-returns, log_ref[1:]).value
    q = torch.cat([below.unsqueeze(0), returns])
    return (log_ref + q / BETA).log_softmax(-1)


def loss_of(logits: Tensor, log_ref: Tensor, returns: Tensor, risk: Risk, target: str) -> Tensor:
    stats = token_stats(logits[STATES], HEAD, log_ref[STATES], HEAD, LABELS, risk)
    by_response = sum_by_sequence(stats, SEQUENCE, len(RESPONSES))
    better, worse = (SequenceStats(*(field[side] for field in by_response)) for side in PAIRS)
    gap = returns.flatten()[PAIRS[0]] - returns.flatten()[PAIRS[1]]
    return pair_loss("rsa1", better, worse, beta=BETA, target=target, gap=gap).loss.mean()


@pytest.mark.parametrize("target", ["soft", "gap"])
@pytest.mark.parametrize("spec", ["mean", "cvar:0.4", "erm:0.7"])
def test_training_on_exact_labels_recovers_the_optimum(spec: str, target: str) -> None:
    generator = torch.Generator().manual_seed(3)
    draw = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    log_ref, returns = draw[:4].log_softmax(-1), draw[4:]
    risk = get_risk(spec)
    expected = optimum(log_ref, returns, on_values(risk))
    logits = log_ref.clone().requires_grad_()
    descent = torch.optim.LBFGS(
        [logits], max_iter=2000, line_search_fn="strong_wolfe", tolerance_grad=1e-12,
        tolerance_change=1e-16,
    )  # fmt: skip

    def closure() -> Tensor:
        descent.zero_grad()
        loss = loss_of(logits, log_ref, returns, risk, target)
        loss.backward()
        return loss

    descent.step(closure)
    torch.testing.assert_close(logits.detach().log_softmax(-1), expected, rtol=0, atol=1e-5)
    # The measures ask for different policies, so each has found its own.
    if spec != "mean":
        neutral = optimum(log_ref, returns, get_risk("mean"))
        assert (expected - neutral).abs().max() > 0.05
