"""Distribution-free bounds: by hand, by simulation over hostile distributions, and the planner."""

import math

import numpy as np
import pytest

from riskalign.errors import InputError
from riskalign.evaluation import ScoredAnswer, cvar_bounds, cvar_upper_bound, empirical_cvar, plan
from riskalign.evaluation.bounds import mean_upper_bound


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
    assert cvar_upper_bound([[0.0, 0.0]] * 300, 0.95, 25.0) == pytest.approx(expected)
    assert cvar_upper_bound([[25.0]] * 5, 0.95, 25.0) == 25.0
    answers = [ScoredAnswer(f"p{i // 2}", "", 0.0, 0.0, 0.0, 0.0, 1) for i in range(600)]
    assert cvar_bounds(answers, (0.95,), 25.0)["cvar_0.95"] == pytest.approx(expected)
    # Answers to 600 prompts of which every two are drawn together tell no more.
    answers = [ScoredAnswer(f"p{i}", "", 0.0, 0.0, 0.0, 0.0, 1) for i in range(600)]
    pairs = {f"p{i}": str(i // 2) for i in range(600)}
    found = cvar_bounds(answers, (0.95,), 25.0, clusters=pairs)
    assert found["cvar_0.95"] == pytest.approx(expected)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", ["coin", "rare", "spread", "clustered"])
def test_the_bound_never_undercovers(name: str, level: float) -> None:
    generator = np.random.default_rng(0)

    def draw(n: int) -> np.ndarray:
        if name == "coin":
            return (generator.random((n, 1)) < 1 - level).astype(float)
        if name == "rare":
            return (generator.random((n, 1)) < 0.2 * (1 - level)).astype(float)
        if name == "spread":
            return generator.beta(0.3, 1.5, size=(n, 2))
        return np.repeat(generator.random((n, 1)) < 0.1, 3, axis=1) * generator.random((n, 3))

    truth = empirical_cvar(draw(400_000).ravel(), level)
    held = [cvar_upper_bound(list(draw(60)), level, 1.0) >= truth - 1e-3 for _ in range(300)]
    assert np.mean(held) >= 0.95


@pytest.mark.parametrize(
    ("costs", "level", "max_cost", "word"),
    [
        ([], 0.9, 1.0, "at least one prompt"),
        ([[2.0]], 0.9, 1.0, "outside"),
        ([[-1.0]], 0.9, 1.0, "outside"),
        ([[0.0]], 1.0, 1.0, "tail level"),
        ([[0.0]], 0.9, 0.0, "max_cost"),
    ],
)
def test_refusals(costs: list[list[float]], level: float, max_cost: float, word: str) -> None:
    with pytest.raises(InputError, match=word):
        cvar_upper_bound(costs, level, max_cost)


def test_a_plan_keeps_its_word() -> None:
    found = plan(0.95, 0.2)
    nothing = [[0.0]] * found.to_rule_out
    assert cvar_upper_bound(nothing, 0.95, 1.0) <= 0.2 + 1e-9
    assert cvar_upper_bound(nothing[:-2], 0.95, 1.0) > 0.2
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
