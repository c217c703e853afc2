"""`riskalign verify` passes, and fails where the library is broken on purpose."""

import json
import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

import riskalign.risk.registry as registry
import riskalign.theory.solve as solve
import riskalign.theory.verify.runner as runner
from riskalign.cli.app import app
from riskalign.errors import InputError
from riskalign.losses import LOSSES, Margin, SequenceStats
from riskalign.pipeline.schedule import Temperatures, temperatures
from riskalign.risk.answers import tail_cost
from riskalign.risk.measures import RiskValue, cvar
from riskalign.theory import Levels, TokenMDP, tilt
from riskalign.theory.verify import (
    CLAIMS,
    Claim,
    Setting,
    answer_claims,
    check,
    loss_claims,
    print_findings,
    render,
    run,
    to_json,
)
from tests.processes import START_METHOD

SETTING = Setting(8, 1)
BY_KEY = {claim.key: claim for claim in CLAIMS}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.key)
def test_claims_hold(claim: Claim) -> None:
    finding = check(claim, SETTING)
    assert finding.passed, finding


@pytest.fixture(autouse=True, scope="module")
def fresh() -> Iterator[None]:
    yield
    answer_claims.forget()


def fails(key: str) -> bool:
    answer_claims.forget()  # what was solved before the library was broken
    return not check(BY_KEY[key], Setting(4, 1)).passed


@pytest.fixture
def one_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is broken shows at any level, and long before ascent has ended."""
    monkeypatch.setattr(answer_claims, "LEVELS", {"cvar:0.8": 0.8})
    monkeypatch.setattr(answer_claims, "_STEPS", 40)


def test_an_unweighted_quantile_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def unweighted(losses: Tensor, log_probs: Tensor, parameter: float) -> RiskValue:
        flat = torch.full_like(log_probs, 1 / losses.shape[-1]).log()
        return cvar(losses, flat, parameter)

    monkeypatch.setitem(registry.RISKS, "cvar", registry.Measure(unweighted, low=0.0, high=1.0))
    for key in ("above-mean", "definition", "dual", "tail"):
        assert fails(key), key


def test_the_published_program_is_no_risk_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.RISKS, "cvar", registry.RISKS["paper_code"])
    for key in ("translation", "above-mean", "implicit"):
        assert fails(key), key


def test_a_wrong_sign_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(chosen: SequenceStats, rejected: SequenceStats, *, beta: float) -> Margin:
        plain = chosen.logp_policy - chosen.logp_ref - rejected.logp_policy + rejected.logp_ref
        margin = beta * (plain + rejected.risk - chosen.risk)
        return Margin(margin, margin, -margin)

    monkeypatch.setitem(LOSSES, "rsa1", swapped)
    assert fails("stationary")
    monkeypatch.setattr(loss_claims, "MEASURES", ("cvar:0.4",))
    monkeypatch.setattr(loss_claims, "FITTED", ("gap",))
    assert fails("loss-finds")


def test_a_safe_step_towards_cost_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solve, "tilt", lambda policy, q, beta: tilt(policy, q, -beta))
    for key in ("implicit", "two-actions", "stationary"):
        assert fails(key), key


@pytest.mark.usefixtures("one_level")
def test_a_threshold_in_the_wrong_place_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quantile under the reference, instead of that under the policy that one arrives at."""

    def stale(
        costs: Tensor, risk: str, strength: float, *, log_base: Tensor
    ) -> SimpleNamespace:  # fmt: skip
        return SimpleNamespace(phi=tail_cost(costs, risk, log_base.softmax(0)))

    monkeypatch.setattr(solve, "tail_optimum", stale)
    assert fails("tail-ascent")
    # Where harm is rare the threshold is the least cost under either.
    assert not fails("tail-rare")


@pytest.mark.usefixtures("one_level")
def test_the_cost_itself_in_place_of_its_tail_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def untransformed(mdp: TokenMDP, phi: object) -> Levels:
        return mdp.cost

    monkeypatch.setattr(answer_claims, "charged", untransformed)
    assert fails("tail-dpo")
    monkeypatch.setattr(solve, "charged", untransformed)
    for key in ("tail-best", "tail-ascent", "tail-rare"):
        assert fails(key), key


def test_swapped_temperatures_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(beta: float, lambda_: float, schedule: str) -> Temperatures:
        found = temperatures(beta, lambda_, schedule)
        return Temperatures(found.safe, found.helpful)

    monkeypatch.setattr(solve, "temperatures", swapped)
    for key in ("objective", "both", "paper", "two-actions", "dial"):
        assert fails(key), key


def test_a_figure_that_is_no_number_passes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(losses: Tensor, log_probs: Tensor) -> RiskValue:
        return RiskValue(losses.sum(-1) * torch.nan, log_probs.exp())

    monkeypatch.setitem(registry.RISKS, "mean", registry.Measure(broken))
    for key in ("translation", "monotone", "telescoping"):
        assert fails(key), key


def test_every_claim_reaches_another_process() -> None:
    for claim in CLAIMS:
        assert pickle.loads(pickle.dumps(claim)).key == claim.key


def test_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    # As `run` does, but with processes that need not import everything.
    start = multiprocessing.get_context(START_METHOD)
    monkeypatch.setattr(runner, "get_context", lambda method: start)
    findings = run(SETTING, [BY_KEY["translation"], BY_KEY["objective"]], processes=2)
    console = Console(record=True, width=120)
    print_findings(findings, SETTING, console)
    text = console.export_text()
    assert "2 claims on 8 random trees: all hold" in text
    assert "ρ(L + c) = ρ(L) + c" in text
    page = render(findings, SETTING)
    assert "default-src 'none'" in page
    assert "two steps = the joint optimum (objective)" in page
    content = to_json(findings, SETTING)
    assert json.loads(json.dumps(content))["passed"] is True
    with pytest.raises(InputError, match="trees"):
        run(Setting(3, 0))


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = (BY_KEY["objective"], BY_KEY["two-actions"])
    monkeypatch.setattr(runner.run, "__defaults__", (few, None, 1))
    files = ["--json", str(tmp_path / "v.json"), "--html", str(tmp_path / "v.html")]
    done = CliRunner().invoke(app, ["verify", "--trees", "4", "--processes", "1", *files])
    assert done.exit_code == 0, done.output
    assert "all hold" in done.output
    assert json.loads((tmp_path / "v.json").read_text())["setting"] == {"trees": 4, "seed": 0}
    assert "<table>" in (tmp_path / "v.html").read_text()
    monkeypatch.setattr(
        solve, "temperatures", lambda beta, lambda_, schedule: Temperatures(beta, beta)
    )
    failed = CliRunner().invoke(app, ["verify", "--trees", "4", "--processes", "1"])
    assert failed.exit_code == 1
    assert "FAIL" in failed.output
