"""The studies run, small; their figures in docs/ come from the full runs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import coverage, frontier
from benchmarks.frontier_page import plot, table
from riskalign.theory import accumulate, random_mdp


def test_every_method_of_the_frontier_is_a_policy_on_its_grid() -> None:
    mdp = random_mdp("prefix", 0, vocabulary=3, depth=3)
    beta, weight = frontier.grid(4)
    order = accumulate(mdp.cost).flatten().argsort(descending=True)
    reward = {}
    for name, solve in frontier.METHODS.items():
        policy = solve(mdp, beta, weight)
        for level in policy:
            assert float(level.logsumexp(-1).abs().max()) < 1e-9, name
        points = frontier.evaluate(mdp, policy, order)
        assert points.reward.shape == (32,)
        assert bool((points.kl > -1e-12).all())
        assert bool((points.cvar[0.99] >= points.cvar[0.95] - 1e-12).all())
        reward[name] = points.reward
    # Where the cost weighs nothing all risk-neutral forms of one kind agree.
    free = weight.flatten() == 0
    whole, fixed = reward[frontier.BASE], reward["cvar 0.9, fixed point"]
    assert float((whole - fixed)[free].abs().max()) < 1e-9


def test_frontier_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "f.json", tmp_path / "f.html", tmp_path / "f.svg"]
    flags = ["--json", "--html", "--svg"]
    arguments = [str(x) for pair in zip(flags, files, strict=True) for x in pair]
    chosen = [frontier.BASE, "mean, one step", "cvar 0.9, one step", "cvar 0.9, self-consistent"]
    monkeypatch.setattr(frontier, "METHODS", {name: frontier.METHODS[name] for name in chosen})
    monkeypatch.setattr(sys, "argv", ["frontier", "--trees", "3", "--grid", "5", *arguments])
    frontier.main()
    shown = capsys.readouterr().out
    assert "| mean, one step |" in shown
    content = json.loads(files[0].read_text())
    for family, rows in content["families"].items():
        own = [row for row in rows if row["method"] == frontier.BASE and row["change"] is not None]
        assert own, family
        assert all(row["change"] == row["low"] == row["high"] == 0 for row in own)
    assert files[1].read_text().count("<svg") == 2 * 2 * len(frontier.BUDGETS)
    assert plot(content, 0.95, 2.0, 0.9) == files[2].read_text()
    assert table(content) in shown


def test_coverage_of_a_few_trials() -> None:
    rows = coverage.simulate("vault, 1.5 % unsafe", 40, trials=12, n_boot=60, seed=0)
    by_method = {(row["level"], row["method"]): row for row in rows}
    assert len(rows) == 12
    assert by_method[0.95, "bound"]["coverage"] == 1.0
    assert by_method[0.95, "used"]["coverage"] >= by_method[0.95, "percentile"]["coverage"]
    assert "| vault, 1.5 % unsafe | 40 | 0.95 |" in coverage.table(rows)
    drawn, safer = coverage.draw("exponential, 20 %", 4000, np.random.default_rng(0))
    assert (drawn > 0).mean() == pytest.approx(0.2, abs=0.02)
    assert (safer > 0).mean() == pytest.approx(0.1, abs=0.02)
    # A tail without a mean: no end, and JSON has no infinity.
    open_ended = coverage.simulate("Pareto 1.5, 20 %", 40, trials=3, n_boot=60, seed=0)
    assert any(row["width"] is None for row in open_ended)
    assert "(∞)" in coverage.table(open_ended)
