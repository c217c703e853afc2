"""The tail cost of whole answers: by hand, and as every measure's derivative."""

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from riskalign.errors import InputError
from riskalign.risk import RISKS, TailCost, answer_risk, get_risk, tail_cost
from tests.risk.rivals import dual_power, register, semideviation, specs

LEVELS = (0.0, 0.3, 0.8, 0.95)


@pytest.fixture
def more(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The registry's measures, and three that it does not have."""
    register(monkeypatch)
    return specs()


def draw(seed: int, size: int = 40) -> tuple[Tensor, Tensor]:
    """Costs [size], the first half with ties, and weights that do not sum to 1."""
    generator = torch.Generator().manual_seed(seed)
    costs, weights = torch.rand((2, size), generator=generator, dtype=torch.float64)
    costs[: size // 2] = (6 * costs[: size // 2]).round() / 3
    return costs, 3 * weights


def test_by_hand() -> None:
    costs = torch.tensor([4.0, 0.0, 1.0])
    weights = torch.tensor([1.0, 2.0, 1.0])
    split = tail_cost(costs, "cvar:0.6", weights)
    assert split(torch.tensor([0.0, 1.0, 4.0, 2.0, 9.0])).tolist() == pytest.approx(
        [0.0, 0.0, 7.5, 2.5, 20.0]
    )
    assert split.threshold == split.bend == 1.0
    assert split.below == 0.0
    assert split.above == pytest.approx(2.5)
    # The mean charges each cost what it is; a cost below the sample's least is a gain.
    mean = tail_cost(costs, "mean", weights)
    assert mean(torch.tensor([0.0, 4.0, -1.0, 6.0])).tolist() == pytest.approx([0, 4, -1, 6])
    assert mean.threshold == -math.inf
    # Equal weights, costs 0 and log 3, mu 1: E exp = 2, so exp(c)/2 is charged: a rise of 1.
    entropic = tail_cost(torch.tensor([0.0, math.log(3)]), "erm:1", torch.ones(2))
    assert entropic(torch.tensor([math.log(3)])).item() == pytest.approx(1.0)


def test_a_dtype_and_a_shape_are_kept() -> None:
    phi = tail_cost(torch.arange(20.0), "cvar:0.9")
    found = phi(torch.arange(6.0).view(2, 3) + 16)
    assert found.dtype == torch.float32
    assert found.shape == (2, 3)
    assert tail_cost(torch.tensor([2.0]), "cvar:0.9")(torch.tensor([2.0])).tolist() == [0.0]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), level=st.sampled_from(LEVELS), size=st.integers(1, 40))
def test_cvar_is_the_hinge_at_the_quantile(seed: int, level: float, size: int) -> None:
    costs, weights = draw(seed, size)
    probs = weights / weights.sum()
    # The least cost with at most 1 - a of mass above it; draws hit no boundary exactly.
    quantile = min(
        (c for c in costs.tolist() if float(probs[costs > c].sum()) <= 1 - level + 1e-12),
    )
    grid = torch.cat([costs, torch.linspace(0, 3, 50).double()])
    hinge = (grid - quantile).clamp(min=0) / (1 - level)
    phi = tail_cost(costs, f"cvar:{level}", weights)
    if level == 0.0:
        hinge = grid - costs.min()
    elif quantile > float(costs.min()):
        assert phi.threshold == quantile
    inside = grid >= costs.min()
    torch.testing.assert_close(phi(grid)[inside], hinge[inside])


@pytest.mark.parametrize("mu", [0.2, 1.0, 6.0])
def test_the_entropic_measure_is_an_exponential(mu: float) -> None:
    costs, weights = draw(1)
    rho = float(get_risk(f"erm:{mu}")(costs, (weights / weights.sum()).log()).value)
    expected = (mu * (costs - rho)).exp() / mu
    found = tail_cost(costs, f"erm:{mu}", weights)(costs)
    torch.testing.assert_close(found, expected - expected.min(), rtol=1e-9, atol=1e-10)


def test_it_is_the_derivative_of_every_measure(more: list[str]) -> None:
    """As mass moves to a cost, the risk's slope is that cost's `phi` above the mean `phi`."""
    costs, weights = draw(2)
    probs = weights / weights.sum()
    assert {spec.partition(":")[0] for spec in more} >= {"mean", "cvar", "erm", "dual_power"}
    step = 1e-7
    for spec in more:
        risk, phi = get_risk(spec), tail_cost(costs, spec, weights)
        # What the sample does not have: between its costs phi is a chord, above them it goes on.
        curved = spec.startswith("erm")
        for target in (*costs[::5].tolist(), 0.123, 1.77, 1.9 if curved else 2.4):
            new = [] if target in costs.tolist() else [target]
            own = torch.cat([costs, torch.tensor(new, dtype=torch.float64)])
            base = torch.cat([probs, probs.new_zeros(len(own) - len(costs))])
            there = (own == target).double()
            moved = (1 - step) * base + step * there / there.sum()
            slope = (risk(own, moved.log()).value - risk(own, base.log()).value) / step
            rise = phi(own)[int(there.argmax())] - float((base * phi(own)).sum())
            # The semideviation's charge jumps at the mean, which lies between costs.
            near = 1e-3 if spec.startswith("semideviation") else 1e-5
            loose = 0.1 if new and curved else near
            assert float(slope) == pytest.approx(float(rise), rel=loose, abs=loose), (spec, target)


def test_it_rises_is_convex_and_charges_what_costs_on_average(more: list[str]) -> None:
    costs, weights = draw(3)
    probs = weights / weights.sum()
    for spec in more:
        phi = tail_cost(costs, spec, weights)
        grid = phi(torch.linspace(-1, 4, 400, dtype=torch.float64))
        assert bool((grid.diff() >= -1e-12).all()), spec
        assert bool((grid.diff().diff() >= -1e-9).all()), spec
        # The worst-case density sums to 1: costs that all rise by 1 are charged 1 more.
        ahead = (phi(costs + 1e-6) - phi(costs)) / 1e-6
        behind = (phi(costs) - phi(costs - 1e-6)) / 1e-6
        assert float(probs @ behind) - 1e-6 <= 1 <= float(probs @ ahead) + 1e-6, spec
        assert float(phi(costs.min())) == pytest.approx(0.0, abs=1e-12)


def test_an_atom_of_vanishing_mass_has_the_right_density(more: list[str]) -> None:
    """Its ratio is that of a tiny mass, and the measure's value does not feel it."""
    costs, weights = draw(4)
    log_probs = (weights / weights.sum()).log()
    for spec in more:
        risk = get_risk(spec)
        without = risk(costs, log_probs).value
        for place in (-0.5, 0.21, 0.77, 1.1, 1.7, 3.0):
            ratios = []
            for log_mass in (-600.0, -16.0):
                losses = torch.cat([costs, torch.tensor([place], dtype=torch.float64)])
                found = risk(losses, torch.cat([log_probs, torch.tensor([log_mass])]))
                ratios.append(float(found.density[-1]) / math.exp(log_mass))
                if log_mass == -600.0:
                    torch.testing.assert_close(found.value, without)
            assert ratios[0] == pytest.approx(ratios[1], rel=1e-4, abs=1e-6), (spec, place)


def test_rivals_by_hand() -> None:
    half = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    losses = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert float(dual_power(losses, half, 2.0).value) == pytest.approx(0.75)
    assert float(semideviation(losses, half, 1.0).value) == pytest.approx(0.75)


def test_it_survives_json() -> None:
    costs, weights = draw(5)
    phi = tail_cost(costs, "erm:0.7", weights)
    kept = json.loads(json.dumps(dataclasses.asdict(phi)))
    again = TailCost(
        tuple(kept["knots"]), tuple(kept["values"]), kept["below"], kept["above"]
    )  # fmt: skip
    assert again == phi
    assert torch.equal(again(costs), phi(costs))


def test_weights_of_zero_and_copies_say_nothing() -> None:
    costs = torch.tensor([0.0, 1.0, 4.0, 9.0])
    with_nothing = tail_cost(costs, "cvar:0.6", torch.tensor([2.0, 1.0, 1.0, 0.0]))
    copies = tail_cost(torch.tensor([0.0, 4.0, 0.0, 1.0]), "cvar:0.6")
    assert with_nothing(costs).tolist() == pytest.approx(copies(costs).tolist())


@pytest.mark.parametrize(
    ("costs", "weights", "words"),
    [
        ([], None, "at least one"),
        ([1.0, math.nan], None, "finite"),
        ([1.0, 2.0], [1.0], "one for each cost"),
        ([1.0, 2.0], [1.0, -1.0], "at least 0"),
        ([1.0, 2.0], [0.0, 0.0], "all are 0"),
    ],
)
def test_refusals(costs: list[float], weights: list[float] | None, words: str) -> None:
    given_weights = None if weights is None else torch.tensor(weights)
    with pytest.raises(InputError, match=words):
        tail_cost(torch.tensor(costs), "cvar:0.5", given_weights)


def test_measures_without_a_tail_cost_are_refused() -> None:
    refused = [name for name, measure in RISKS.items() if not measure.law_invariant]
    assert refused == ["paper_code", "paper_code_halves"]
    for name in refused:
        with pytest.raises(InputError, match=r"no risk of a distribution.*cvar"):
            answer_risk(f"{name}:0.5")
    with pytest.raises(InputError, match="grows beyond"):
        tail_cost(torch.tensor([0.0, 400.0]), "erm:2", torch.tensor([1, 1e-290]).double())
