"""The small networks' study: its parts against oracles, and a run in seconds."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import small_networks, small_networks_page, small_networks_train
from benchmarks.small_networks_methods import METHODS, Cell, key_of
from benchmarks.small_networks_model import Trees, exact, fresh, policy, pretrain, worth
from benchmarks.small_networks_page import at_reward, ratio
from benchmarks.small_networks_train import (
    Budget,
    Method,
    Rows,
    charges,
    leaf_stats,
    make_rows,
    quantile,
    rows_loss,
    threshold,
)
from riskalign.losses import SequenceStats
from riskalign.risk import get_risk, tail_optimum
from riskalign.theory import accumulate, random_mdp
from riskalign.tokens.head import Head
from riskalign.tokens.stats import token_stats_naive


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_whole_tree_is_a_gated_recurrent_unit_on_each_beginning() -> None:
    net = fresh(2, 3, 5, generator())
    levels = policy(net, 3)
    cell = torch.nn.GRUCell(3, 5)
    with torch.no_grad():
        cell.weight_ih.copy_(net.read[1].T)
        cell.weight_hh.copy_(net.recur[1].T)
        cell.bias_ih.zero_()
        cell.bias_hh.zero_()
        cell.bias_hh[10:] = net.keep[1, 0]
        state = net.start[1]
        for place, token in ((0, 2), (2, 1)):
            state = cell(torch.eye(3)[[token]], state)
            place = 3 * place + token if place else token
        wanted = (state @ net.head[1] + net.bias[1]).log_softmax(-1)
    assert torch.allclose(levels[2][1, 2 * 3 + 1], wanted[0], atol=1e-6)


def test_networks_come_close_to_their_references() -> None:
    mdp = random_mdp("prefix", 0, vocabulary=3, depth=2, count=2)
    net = fresh(2, 3, 8, generator())
    assert float(pretrain(net, mdp.log_ref, 300, 2e-2).max()) < 0.02


def test_worth_of_a_policy_by_hand() -> None:
    # Rewards 0 and 4, costs 1 and 3 at probabilities 0.97 and 0.03; the tail of 0.05 holds
    # 0.03 of cost 3 and 0.02 of cost 1.
    log = torch.tensor([[0.97, 0.03]], dtype=torch.float64).log()
    half = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    trees = Trees(torch.tensor([[0.0, 4.0]]).double(), torch.tensor([[1.0, 3.0]]).double(), half)
    kl = 0.97 * math.log(0.97 / 0.5) + 0.03 * math.log(0.03 / 0.5)
    wanted = torch.tensor([[0.12, 1.06, (0.09 + 0.02) / 0.05, 3.0, kl]], dtype=torch.float64)
    assert torch.allclose(worth(trees, log), wanted)


@pytest.mark.parametrize("strength", [0.02, 0.3, 3.0])
def test_threshold_is_that_of_the_optimum(strength: float) -> None:
    costs = torch.randn(1, 40, generator=generator(), dtype=torch.float64).exp()
    weights = torch.rand(1, 40, generator=generator(), dtype=torch.float64)
    best = tail_optimum(costs[0], "cvar:0.8", strength, log_base=weights[0].log())
    eta = threshold(costs, weights, 0.8, torch.tensor([strength]))
    assert float(eta) == pytest.approx(best.phi.threshold, abs=1e-9)


def test_quantile_by_hand() -> None:
    costs = torch.tensor([[4.0, 0.0, 1.0]])
    weights = torch.tensor([[1.0, 2.0, 1.0]])
    assert quantile(costs, weights, 0.5).tolist() == [0.0]
    assert quantile(costs, weights, 0.6).tolist() == [1.0]


def test_charges_are_the_cost_or_its_excess() -> None:
    cost = torch.tensor([[0.0, 1.0, 4.0]], dtype=torch.float64)
    trees = Trees(cost, cost, cost)
    counts = torch.tensor([[2.0, 1.0, 1.0]], dtype=torch.float64)
    weak = torch.tensor([1e-6], dtype=torch.float64)
    assert charges(trees, counts, 0.0, weak, True) is cost
    # By hand, as in `tail_cost`: the quantile 1 at level 0.6, and 3 / 0.4.
    for arrival in (True, False):
        found = charges(trees, counts, 0.6, weak, arrival)
        assert torch.allclose(found, torch.tensor([[0.0, 0.0, 7.5]], dtype=torch.float64))


def test_rows_hold_the_best_and_the_worst_and_a_share_of_anchors() -> None:
    answers = torch.arange(12).view(1, 12)
    scores = torch.tensor([[0.0, 0.0, -1.0, -9.0, *[0.0] * 8]], dtype=torch.float64)
    reward = torch.tensor([[2.0, 1.0, 3.0, 0.0, *range(8)]], dtype=torch.float64)
    rows = make_rows(answers, scores, reward, Method(rows="pairs", k=4, anchors=0.5))
    # Of the two at 0 the more helpful one is chosen; the worst is cut off at 5 nats below.
    assert rows.answers.tolist() == [[[0, 3], [7, 4], [11, 8]]]
    assert rows.scores.tolist() == [[[0.0, -5.0], [0.0, 0.0], [0.0, 0.0]]]
    # One row of the tail, so the two anchors have one row's share between them.
    assert rows.share.tolist() == [[1.0, 0.5, 0.5]]
    order = make_rows(answers, scores, reward, Method(rows="pairs", k=4, ties="random"))
    assert order.answers.tolist() == [[[1, 3], [7, 4], [11, 8]]]  # as they were sampled
    none = make_rows(answers, scores, reward, Method(rows="pairs", k=4, anchors=0.0))
    assert none.share.tolist() == [[1.0, 0.0, 0.0]]
    still = make_rows(answers, 0 * scores, reward, Method(rows="pairs", k=4, anchors=0.0))
    assert still.share.tolist() == [[1.0, 1.0, 1.0]]
    groups = make_rows(answers, scores, reward, Method(k=4, max_gap=None))
    assert groups.answers[0, 0].tolist() == [3, 2, 1, 0]
    assert groups.scores[0, 0].tolist() == [-9.0, -1.0, 0.0, 0.0]


def test_rows_that_hold_the_tail_are_weighed_back() -> None:
    answers = torch.arange(8).view(1, 8)
    scores = -torch.arange(8.0, dtype=torch.float64).view(1, 8)
    for keep, weight in (("tail", 1.0), ("weighed", 3.0)):
        rows = make_rows(answers, scores, scores, Method(k=4, keep=keep, max_gap=None))
        assert rows.answers[0, 0, :2].tolist() == [7, 6]
        assert set(rows.answers[0, 0, 2:].tolist()) < set(range(6))
        assert rows.weights[0, 0].tolist() == [1.0, 1.0, weight, weight]


def test_loss_of_groups_is_the_closed_form() -> None:
    k = 4
    logp = torch.randn(1, 10, generator=generator(), dtype=torch.float64)
    zero = torch.zeros_like(logp)
    stats = SequenceStats(logp, 0.3 * logp.flip(-1), zero, zero, zero, zero)
    answers = torch.randint(10, (1, 3, k), generator=generator())
    scores = torch.randn(1, 3, k, generator=generator(), dtype=torch.float64)
    rows = Rows(answers, scores, torch.ones_like(scores), torch.ones(1, 3))
    taken = torch.tensor([[0, 2, 2]])
    off = (stats.logp_policy - stats.logp_ref)[0][answers[0]] - scores[0]
    closed = 2 * k / (k - 1) * (off - off.mean(-1, keepdim=True)).square().mean(-1)
    wanted = closed[taken[0]].mean()
    assert float(rows_loss(stats, rows, taken, Method(k=k))) == pytest.approx(float(wanted))


def test_token_risk_is_the_librarys() -> None:
    mdp = random_mdp("diffuse", 1, vocabulary=4, depth=2, count=1)
    net = fresh(1, 4, 6, generator())
    method = Method(loss="rsa1", risk="cvar:0.6")
    levels = tuple(level.double() for level in policy(net, 2))
    stats = leaf_stats(levels, mdp.log_ref, method)
    # The response (1, 3), whose tokens' rows are the root and the beginning 1.
    rows = [levels[0][0, 0], levels[1][0, 1]]
    refs = [mdp.log_ref[0][0, 0], mdp.log_ref[1][0, 1]]
    head = Head(torch.eye(4, dtype=torch.float64))
    labels, risk = torch.tensor([1, 3]), get_risk("cvar:0.6")
    tokens = token_stats_naive(torch.stack(rows), head, torch.stack(refs), head, labels, risk)
    for ours, theirs in (
        (stats.risk[0, 7], tokens.risk.sum()),
        (stats.logp_policy[0, 7], tokens.logp_policy.sum()),
        (stats.logp_ref[0, 7], tokens.logp_ref.sum()),
    ):
        assert torch.allclose(ours, theirs, atol=1e-9)
    ours_grad = torch.autograd.grad(stats.risk[0, 7], net.head, retain_graph=True)[0]
    theirs_grad = torch.autograd.grad(tokens.risk.sum(), net.head)[0]
    assert torch.allclose(ours_grad, theirs_grad, atol=1e-6)


def test_point_at_a_reward_by_hand() -> None:
    points = np.array([[[2.0, 0, 1.0, 1.0, 0.0], [1.0, 0, 0.25, 1.0, 1.0]]])

    def at(wanted: float, most_kl: float = math.inf) -> list[float]:
        found: list[float] = at_reward(points, np.array([wanted]), most_kl)[0].tolist()
        return found

    # Half way in reward is the geometric mean of the tails.
    assert at(1.5) == pytest.approx([1.5, 0.0, 0.5, 1.0, 0.5])
    assert at(0.5) == pytest.approx(points[0, 1])
    assert at(2.0) == at(3.0) == pytest.approx(points[0, 0])
    assert at(0.5, 0.5) == pytest.approx([1.5, 0.0, 0.5, 1.0, 0.5])
    mean, low, high = ratio(np.array([1.0, 3.0]), np.array([2.0, 2.0, 9.0]))
    assert (mean, low, high) == (1.0, 0.5, 1.5)


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(small_networks, "SHAPE", {"vocabulary": 3, "depth": 2, "peakedness": 1.0})
    monkeypatch.setattr(small_networks, "STRENGTHS", (1.0, 4.0))
    monkeypatch.setattr(small_networks, "PRETRAINING", 20)
    names = ("SACPO, pairs of 4", "tail, groups of 8")
    budget, small = Budget(), Budget(answers=256, updates=50)
    chosen = [Cell(name, METHODS[name], budget, 2, ("correlated",)) for name in names]
    crossing = [Cell(name, METHODS[name], small, 2, ("correlated",)) for name in names]
    monkeypatch.setattr(small_networks, "MAIN", chosen)
    monkeypatch.setattr(small_networks, "CROSSING", crossing)
    file, svg = tmp_path / "n.json", tmp_path / "n.svg"
    arguments = ["small", "--json", str(file), "--svg", str(svg), "--trees", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    small_networks.main()
    shown = capsys.readouterr().out
    assert "| tail, groups of 8 | " in shown
    assert svg.read_text().startswith("<svg")
    content = json.loads(file.read_text())
    own = content["families"]["correlated"]
    assert len(own[key_of(names[0], budget)][0]) == 2
    assert "| SACPO, pairs of 4 | 1.00 (1.00 to 1.00) |" in shown

    def never(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(small_networks, "run", never)
    small_networks.main()
    assert json.loads(file.read_text()) == content
    monkeypatch.setattr(sys, "argv", [*arguments, "--seed", "1"])
    with pytest.raises(SystemExit):
        small_networks.main()


def test_ideal_of_the_tail_is_best_at_its_own_aim() -> None:
    mdp = random_mdp("correlated", 0, vocabulary=4, depth=2, count=3)
    net = fresh(3, 4, 4, generator())
    log = accumulate(exact(net, 2))
    trees = Trees(accumulate(mdp.reward), accumulate(mdp.cost), log)
    start = small_networks.Start(net, trees, log, torch.zeros(3))
    for strength, own in zip(
        small_networks.FINE, small_networks.ideal(start, 0.95).unbind(1), strict=True
    ):
        pull = strength * small_networks_train.pull(0.95)
        aim = pull * own[:, small_networks_page.CVAR_95] + own[:, small_networks_page.KL]
        for other in small_networks.ideal(start, 0.0).unbind(1):
            rival = pull * other[:, small_networks_page.CVAR_95] + other[:, small_networks_page.KL]
            assert bool((aim <= rival + 1e-9).all())


def test_the_page_holds_the_committed_figures() -> None:
    root = Path(__file__).parents[1]
    content = json.loads((root / "benchmarks/results/small_networks.json").read_text())
    told = (root / "docs/small_networks.md").read_text()
    for own in content["families"].values():
        lines = small_networks_page.same_settings_table(own)
        assert len(lines) > 4
        for line in [*lines, *small_networks_page.main_table(own)]:
            assert line in told
