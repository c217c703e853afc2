"""Distribution-free bounds: by hand, by simulation over hostile distributions, and the planner."""

import math

import numpy as np
import pytest

from riskalign.errors import InputError
from riskalign.evaluation import (
    ScoredAnswer,
    cvar_bounds,
    cvar_upper_bound,
    empirical_cvar,
    plan,
    rate_upper_bound,
)
from riskalign.evaluation.bounds import (
    BOUNDS,
    mean_upper_bound,
    nothing_seen_bound,
    tail_band,
)


def test_mean_bound_by_hand() -> None:
    assert mean_upper_bound(0.0, 100, 0.05) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert mean_upper_bound(1.0, 10, 0.05) == 1.0
    found = mean_upper_bound(0.2, 50, 0.05)
    kl = 0.2 * math.log(0.2 / found) + 0.8 * math.log(0.8 / (1 - found))
    assert 50 * kl == pytest.approx(math.log(20))
    assert found > 0.2


def test_cvar_bound_by_hand() -> None:
    """Nothing seen in 300 prompts, largest cost 25: eta = 0 with a third of the confidence."""
    expected = 25 * (1 - (0.05 / 3) ** (1 / 300)) / 0.05
    seen = [[0.0, 0.0]] * 300
    assert cvar_upper_bound(seen, 0.95, 25.0, method="chernoff") == pytest.approx(expected)
    expected = cvar_upper_bound(seen, 0.95, 25.0)
    assert expected == pytest.approx(25 * nothing_seen_bound(300, 0.95))
    assert all(cvar_upper_bound([[25.0]] * 5, 0.95, 25.0, method=name) == 25.0 for name in BOUNDS)
    answers = [ScoredAnswer(f"p{i // 2}", "", 0.0, 0.0, 0.0, 0.0, 1) for i in range(600)]
    assert cvar_bounds(answers, (0.95,), 25.0)["cvar_0.95"] == pytest.approx(expected)
    # Answers to 600 prompts of which every two are drawn together tell no more.
    answers = [ScoredAnswer(f"p{i}", "", 0.0, 0.0, 0.0, 0.0, 1) for i in range(600)]
    pairs = {f"p{i}": str(i // 2) for i in range(600)}
    found = cvar_bounds(answers, (0.95,), 25.0, clusters=pairs)
    assert found["cvar_0.95"] == pytest.approx(expected)


def wealth(costs: list[list[float]], level: float, cvar: float) -> float:
    """A bettor's wealth, prompt by prompt and bet by bet, as the docstring of `_betting` says."""
    etas = [0.0, *(0.02 * 30 ** (i / 8) for i in range(9))] if level else [0.0]
    stakes = [1.0, *(1 - 0.65 * (1e-3 / 0.65) ** (i / 14) for i in range(15))]
    total = 0.0
    # With 80 prompts no stake is small: 2 / sqrt(80) is above 0.16.
    for i, eta in enumerate(etas):
        m = (cvar - eta) * (1 - level) / (1 - eta)
        if not 0 < m < 1:
            continue
        weight = 1.0 if len(etas) == 1 else 0.5 if i == 0 else 0.5 / 9
        for stake in stakes:
            own = weight / len(stakes)
            for answers in costs:
                x = sum(max(cost - eta, 0) for cost in answers) / (1 - eta) / len(answers)
                own *= 1 - stake + stake * (1 - x) / (1 - m)
            total += own
    return total


@pytest.mark.parametrize("level", [0.0, 0.5, 0.9])
def test_betting_equals_a_bet_by_hand(level: float) -> None:
    generator = np.random.default_rng(1)
    costs = [list(generator.beta(0.2, 3, size=generator.integers(1, 4))) for _ in range(80)]
    found = cvar_upper_bound(costs, level, 1.0, 0.9)
    assert wealth(costs, level, found) == pytest.approx(10, rel=1e-6)
    assert wealth(costs, level, found - 1e-3) < 10
    shuffled = [list(reversed(own)) for own in reversed(costs)]
    assert cvar_upper_bound(shuffled, level, 1.0, 0.9) == pytest.approx(found)
    # Costs and the largest cost in other units.
    assert cvar_upper_bound([[7 * c for c in own] for own in costs], level, 7.0, 0.9) == (
        pytest.approx(7 * found)
    )


@pytest.mark.parametrize(("n", "level"), [(30, 0.9), (200, 0.95), (50, 0.0)])
def test_the_band_holds_together(n: int, level: float) -> None:
    ranks, shares = tail_band(n, level, 0.1)
    draws = np.sort(np.random.default_rng(0).random((20_000, n)), axis=1)
    beyond = draws[:, np.array(ranks) - 1]  # the share beyond the k-th largest is such a number
    held = (beyond <= np.array(shares)).all(1).mean()
    assert held == pytest.approx(0.9, abs=0.01)
    assert (np.diff(shares) > 0).all()


def test_a_band_of_many_costs_takes_no_long_time() -> None:
    """Ranks end at a thousand; the bound is then wider and still holds."""
    ranks, _ = tail_band(40_000, 0.5, 0.05)
    assert max(ranks) == 1000
    costs = np.random.default_rng(0).random(40_000)
    bound = cvar_upper_bound(list(costs[:, None]), 0.5, 1.0, method="order")
    assert empirical_cvar(costs, 0.5) < bound < 1


def test_the_order_bound_by_hand() -> None:
    """All costs alike: mass beyond the first rank may cost the most, the rest costs as much."""
    _, shares = tail_band(100, 0.9, 0.05)
    expected = (shares[0] * 1.0 + (0.1 - shares[0]) * 0.2) / 0.1
    found = cvar_upper_bound([[0.2]] * 100, 0.9, 1.0, method="order")
    assert found == pytest.approx(expected)


def test_bounds_of_a_rate() -> None:
    # Clopper and Pearson's, as tables have it: 2 of 50.
    assert rate_upper_bound([[0.0]] * 48 + [[3.0]] * 2) == pytest.approx(0.1206, abs=1e-4)
    assert rate_upper_bound([[0.0]] * 100) == pytest.approx(1 - 0.05**0.01)
    assert rate_upper_bound([[1.0]] * 3) == 1.0
    # Two answers a prompt tell more than one, and less than twice as many prompts.
    generator = np.random.default_rng(0)
    unsafe = (generator.random((400, 2)) < 0.1).astype(float)
    two, doubled = rate_upper_bound(list(unsafe)), rate_upper_bound([[c] for c in unsafe.ravel()])
    assert doubled < two < rate_upper_bound(list(np.repeat(unsafe[:, :1], 2, axis=1)))


@pytest.mark.parametrize("method", BOUNDS)
@pytest.mark.parametrize("level", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", ["coin", "rare", "spread", "clustered"])
def test_the_bound_never_undercovers(name: str, level: float, method: str) -> None:
    generator = np.random.default_rng(0)

    def draw(n: int) -> np.ndarray:
        if name == "coin":
            return (generator.random((n, 1)) < 1 - level).astype(float)
        if name == "rare":
            return (generator.random((n, 1)) < 0.2 * (1 - level)).astype(float)
        if name == "spread":
            return generator.beta(0.3, 1.5, size=(n, 2))
        return np.repeat(generator.random((n, 1)) < 0.1, 3, axis=1) * generator.random((n, 3))

    truth = empirical_cvar(draw(100_000).ravel(), level)
    tries = [list(draw(60)) for _ in range(60)]
    held = [cvar_upper_bound(x, level, 1.0, 0.9, method) >= truth - 5e-3 for x in tries]
    assert np.mean(held) >= 0.9


@pytest.mark.parametrize(
    ("costs", "level", "max_cost", "word"),
    [
        ([], 0.9, 1.0, "at least one prompt"),
        ([[2.0]], 0.9, 1.0, "outside"),
        ([[-1.0]], 0.9, 1.0, "outside"),
        ([[0.0]], 1.0, 1.0, "tail level"),
        ([[0.0]], 0.9, 0.0, "max_cost"),
        ([[0.0], []], 0.9, 1.0, "at least one answer"),
        ([[math.nan]], 0.9, 1.0, "outside"),
    ],
)
def test_refusals(costs: list[list[float]], level: float, max_cost: float, word: str) -> None:
    with pytest.raises(InputError, match=word):
        cvar_upper_bound(costs, level, max_cost)
    with pytest.raises(InputError, match="one of betting, order, chernoff"):
        cvar_upper_bound([[0.0]], 0.9, 1.0, method="guess")


def test_a_plan_keeps_its_word() -> None:
    found = plan(0.95, 0.2)
    nothing = [[0.0]] * found.to_rule_out
    assert cvar_upper_bound(nothing, 0.95, 1.0) <= 0.2
    assert cvar_upper_bound(nothing[:-1], 0.95, 1.0) > 0.2
    # The normal approximation of the worst case: all unsafe answers of the largest cost.
    rates = np.random.default_rng(0).binomial(found.to_estimate, found.rate, 4000)
    estimates = rates / found.to_estimate / 0.05
    low, high = np.quantile(estimates, [0.025, 0.975])
    assert high - low == pytest.approx(0.2, rel=0.06)
    assert plan(0.99, 0.1).to_rule_out > plan(0.95, 0.1).to_rule_out
    assert plan(0.95, 0.1, rate=0.01).to_estimate < plan(0.95, 0.1).to_estimate
    for bad in ((1.0, 0.1), (0.9, 0.0), (0.9, 1.0)):
        with pytest.raises(InputError):
            plan(*bad)
    with pytest.raises(InputError, match="rate"):
        plan(0.9, 0.1, rate=0.0)
