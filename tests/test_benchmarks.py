"""The studies run, small; their figures in docs/ come from the full runs."""

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import attempts, bounds, certify, coverage, frontier, frontier_answers, rare
from benchmarks.frontier_page import plot, table
from riskalign.errors import InputError
from riskalign.evaluation.bounds import BOUNDS
from riskalign.risk import tail_optimum
from riskalign.theory import accumulate, random_mdp


def joined(tables: Iterable[frontier_answers.Points]) -> frontier_answers.Points:
    rows = list(tables)
    return frontier_answers.Points(
        torch.cat([points.reward for points in rows]),
        torch.cat([points.kl for points in rows]),
        {
            level: torch.cat([points.cvar[level] for points in rows])
            for level in frontier_answers.TAILS
        },
    )


def test_every_method_of_the_frontier_is_on_its_grid() -> None:
    mdp = random_mdp("prefix", 0, vocabulary=3, depth=3)
    beta, weight = frontier.grid(4)
    found = {name: joined(m(mdp, beta, weight)) for name, m in frontier.METHODS.items()}
    for name, points in found.items():
        size = {frontier.FINE: 16, frontier.ANY: 8 * 27}.get(name, 1)
        assert points.reward.shape == points.kl.shape == (32 * size,), name
        assert bool((points.kl > -1e-9).all()), name
        assert bool((points.cvar[0.99] >= points.cvar[0.95] - 1e-12).all())
    # Where the cost weighs nothing all risk-neutral forms of one kind agree.
    free = weight.flatten() == 0
    for name in ("cvar 0.9, fixed point", "tail of answers, cvar 0.95", "tail of answers, erm 1"):
        apart = (found[frontier.BASE].reward - found[name].reward)[free].abs()
        assert float(apart.max()) < 1e-6, name
    # The base's grid is part of the finer one.
    torch.testing.assert_close(found[frontier.FINE].reward[:32], found[frontier.BASE].reward)


def test_policies_of_any_threshold_are_what_they_say() -> None:
    """Running sums against each tilt written out; CVaR is met where eta is the quantile."""
    mdp = random_mdp("diffuse", 2, vocabulary=3, depth=2)
    beta, weight = frontier.grid(4)
    grids = list(frontier_answers.finer(beta, weight, 2, 4))
    costs = accumulate(mdp.cost).flatten()
    met = 0
    tables = frontier_answers.any_threshold(mdp, beta, weight)
    for eta, points in zip(costs.sort(descending=True).values, tables, strict=True):
        policies = torch.cat(
            [
                (
                    accumulate(mdp.log_ref)
                    + (accumulate(mdp.reward) - w * (costs - eta).clamp(min=0)) / b
                ).log_softmax(-1)
                for b, w in grids
            ]
        )
        plain = frontier_answers.evaluate(mdp, policies)
        torch.testing.assert_close(points.reward, plain.reward)
        torch.testing.assert_close(points.kl, plain.kl)
        for level in frontier_answers.TAILS:
            assert bool((points.cvar[level] >= plain.cvar[level] - 1e-9).all())
            at_least = (policies.exp() * (costs >= eta)).sum(-1)
            beyond = (policies.exp() * (costs > eta)).sum(-1)
            quantile = (beyond <= 1 - level) & (at_least >= 1 - level)
            met += int(quantile.sum())
            torch.testing.assert_close(points.cvar[level][quantile], plain.cvar[level][quantile])
    assert met > 100


@pytest.mark.parametrize("family", ["diffuse", "correlated"])
def test_the_frontiers_tail_form_is_the_librarys_optimum(family: str) -> None:
    """The scan by cumulated sums, and the entropic fixed point, at every point of a grid."""
    mdp = random_mdp(family, 1, vocabulary=4, depth=3)
    costs, order = accumulate(mdp.cost).flatten().sort()
    log_base = accumulate(mdp.log_ref) + accumulate(mdp.reward) / torch.tensor([[0.3], [1.0]])
    log_base = log_base.double().log_softmax(-1)[:, order]
    for strength in (0.05, 0.4, 3.0):
        wanted = torch.full((2, 1), strength, dtype=torch.float64)
        for level in (0.8, 0.95):
            found = frontier_answers.tilted_by_cvar(costs, log_base, wanted, level)
            for log_w, base in zip(found, log_base, strict=True):
                best = tail_optimum(costs, f"cvar:{level}", strength, log_base=base)
                torch.testing.assert_close(log_w.exp(), best.weights, rtol=1e-6, atol=1e-9)
        found = frontier_answers.tilted_by_erm(costs, log_base, wanted, 1.0)
        for log_w, base in zip(found, log_base, strict=True):
            best = tail_optimum(costs, "erm:1.0", strength, log_base=base)
            torch.testing.assert_close(log_w.exp(), best.weights, rtol=1e-3, atol=1e-4)


def test_frontier_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "f.json", tmp_path / "f.html", tmp_path / "f.svg"]
    flags = ["--json", "--html", "--svg"]
    arguments = [str(x) for pair in zip(flags, files, strict=True) for x in pair]
    chosen = [
        frontier.BASE,
        frontier.FINE,
        "tail of answers, cvar 0.95",
        frontier.ANY,
        "mean, one step",
        "cvar 0.9, self-consistent",
    ]
    monkeypatch.setattr(frontier, "METHODS", {name: frontier.METHODS[name] for name in chosen})
    common = ["frontier", "--trees", "2", "--grid", "4", *arguments]
    monkeypatch.setattr(sys, "argv", [*common, "--methods", "whole, one step, tail"])
    frontier.main()
    first = frontier.read_figures(files[0])
    monkeypatch.setattr(sys, "argv", common)
    frontier.main()
    shown = capsys.readouterr().out
    assert "| mean, one step |" in shown
    content = frontier.read_figures(files[0])
    for family, rows in content["families"].items():
        own = [row for row in rows if row["method"] == frontier.BASE and row["change"] is not None]
        assert own, family
        assert all(row["change"] == row["low"] == row["high"] == 0 for row in own)
        # What was there is kept, and methods stand in their order.
        assert list(dict.fromkeys(row["method"] for row in rows)) == chosen
        kept = [row for row in rows if row["method"] != chosen[-1]]
        assert kept == first["families"][family]
        against = [row for row in rows if row["method"] == frontier.ANY]
        assert all(row["base"] == frontier.FINE for row in against)
    assert files[1].read_text().count("<svg") == 2 * 2 * len(frontier.BUDGETS)
    assert plot(content, 0.95, 2.0, 0.9) == files[2].read_text()
    assert table(content) in shown
    # Nothing is left to compute; other settings, families or words are refused.
    monkeypatch.setattr(frontier, "study", None)
    frontier.main()
    assert capsys.readouterr().out.count("kept from") == 4
    monkeypatch.setattr(sys, "argv", [*common, "--seed", "7"])
    with pytest.raises(InputError, match="other settings"):
        frontier.main()
    monkeypatch.setattr(sys, "argv", [*common, "--methods", "magic"])
    with pytest.raises(InputError, match="'magic' is in no name"):
        frontier.main()


def test_attempts_and_errors_of_a_few_trials() -> None:
    rows = attempts.of_attempts("Beta, mean 5 %, overdispersion 0.25", 64, trials=3, seed=0)
    assert {row["method"] for row in rows} == {"limits", "fitted", "resampled"}
    assert all(row["coverage"] == 100 for row in rows if row["method"] == "limits")
    errs = attempts.of_errs(attempts.SCORERS[0], 0.05, trials=5, seed=0)
    assert errs["corrected"][0] >= 60
    assert errs["bound"][0] == 100
    shown = attempts.tables(rows, [errs])
    assert "| Beta, mean 5 %, overdispersion 0.25 | 64 | 1000 | 0.595 |" in shown
    assert "| 0.9 of 50 | 0.9 of 200 | 0.05 |" in shown


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


def test_rare_harm_of_a_few_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rare, "PROMPTS", 20)
    name = "all harm suppressed alike, small errors"
    case = rare.simulate(name, 1e-3, prompts=200, repeats=5, seed=0)
    assert case["truth"]["unsafe_rate"] == pytest.approx(1e-3)
    # So rare that the quantile is 0: CVaR 0.99 is the mean cost a hundred times.
    assert case["truth"]["cvar_0.99"] == pytest.approx(5 * case["truth"]["cvar_0.95"])
    assert case["worth"][str((0.0,))] > case["worth"][str((0.8, 0.9))] > 1
    assert set(case["rows"]) == {"unsafe_rate", "cvar_0.95", "cvar_0.99"}
    assert f"| {name} | 0.001 | CVaR 0.99 |" in rare.tables([case])


def test_certificates_on_trees_know_the_truth() -> None:
    world = certify.make_world("correlated", 1)
    asked = world.draw(0, 4000, np.random.default_rng(0))
    costs = np.concatenate([own.costs for own in asked])
    cvar = np.sort(costs)[::-1][: round(0.05 * costs.size)].mean()
    assert cvar == pytest.approx(world.cvar[0], rel=0.05)
    assert (costs > 0).mean() == pytest.approx(world.rate[0], abs=0.02)
    # Safer settings help less, and more prompts let a more helpful one pass.
    assert (np.diff(world.cvar) > 0).all()
    assert (np.diff(world.gain) > 0).all()
    few, many = (certify.run("correlated", n, 8) for n in (50, 1000))
    assert few.broken == many.broken == 0
    assert few.none == 1.0
    assert many.share > 0.7
    wrong = certify.all_break(200, 40)
    assert wrong["best of all"] > 0.15 > wrong["fixed sequence"]


def test_bounds_of_a_cell_hold() -> None:
    found = bounds.cell("7 % unsafe", 200, 4, 0.9, 5)
    assert all(found[method]["held"] == 1 for method in BOUNDS)
    assert found["betting"]["median"] < found["chernoff"]["median"]
    assert bounds.cell("none", 200, 1, 0.9, 2)["truth"] == 0
