"""Ratios of tails at matched helpfulness: by hand, paired, and honest where frontiers end."""

import math
from typing import Any

import numpy as np
import pytest

from riskalign.evaluation.comparison import Cell
from riskalign.evaluation.frontier_ratio import frontier_ratios
from riskalign.evaluation.intervals import Bootstrap
from riskalign.evaluation.score import ScoredAnswer

BOOT = Bootstrap(n_boot=200, seed=0)


def cell(method: str, seed: int, **points: Any) -> Cell:
    """Points as lists of (reward, cost), one prompt each."""
    return Cell(
        method,
        seed,
        {
            name.replace("_", "-"): [
                ScoredAnswer(f"p{i}", "", reward, cost, 0.5, math.nan, 1)
                for i, (reward, cost) in enumerate(answers)
            ]
            for name, answers in points.items()
        },
        {},
    )


def flat(reward: float, cost: float) -> list[tuple[float, float]]:
    return [(reward, cost)] * 4


CELLS = [
    cell("ours@w=1", 0, start=flat(0.9, 0.1), final=flat(0.2, 1)),
    cell("ours@w=2", 0, final=flat(0.4, 4), dial_0_5=flat(0.1, 3)),
    cell("theirs", 0, final=flat(0.2, 2), dial_0_5=flat(0.4, 4)),
]


def test_two_frontiers_by_hand() -> None:
    found = frontier_ratios(CELLS, "ours", "theirs", 0.95, BOOT)
    # The dominated point at 0.1 and the shared start are on no frontier.
    assert [round(ratio.reward, 3) for ratio in found] == [0.2, 0.25, 0.3, 0.35, 0.4]
    middle = found[2]
    assert middle.own_cvar == pytest.approx(2)
    assert middle.rival_cvar == pytest.approx(math.sqrt(8))
    assert middle.ratio.value == pytest.approx(1 / math.sqrt(2))
    # Nothing varies between prompts, so neither does the ratio.
    assert middle.ratio.low == pytest.approx(middle.ratio.high)
    assert (middle.own_kl, middle.rival_kl, middle.undrawn) == (0.5, 0.5, 0.0)
    assert found[0].ratio.value == pytest.approx(0.5)
    assert found[-1].ratio.value == pytest.approx(1.0)


def test_frontiers_that_do_not_meet_have_no_ratio() -> None:
    cells = [cell("a", 0, final=flat(0.2, 1)), cell("b", 0, final=flat(0.5, 1))]
    assert frontier_ratios(cells, "a", "b", 0.95, BOOT) == []
    assert frontier_ratios(cells, "a", "unknown", 0.95, BOOT) == []


def noisy(method: str, seed: int, factor: float) -> Cell:
    """The same prompts have like costs under every method: pairs tell more than either alone."""
    generator = np.random.default_rng(seed)
    costs = generator.lognormal(size=300)
    rewards = generator.uniform(size=300)

    def point(shift: float) -> list[tuple[float, float]]:
        return [
            (float(r + shift), float(factor * (1 + shift) * c))
            for r, c in zip(rewards, costs, strict=True)
        ]

    return cell(method, seed, final=point(0.0), dial_0_5=point(0.3))


def test_intervals_are_paired_and_hold_seeds() -> None:
    cells = [noisy(name, s, f) for s in (0, 1, 2) for name, f in (("a", 0.5), ("b", 1.0))]
    found = frontier_ratios(cells, "a", "b", 0.95, BOOT)
    assert len(found) == 5
    for ratio in found[1:-1]:
        assert ratio.ratio.value == pytest.approx(0.5)
        # Unpaired, each side's CVaR alone varies by a fifth or so.
        assert ratio.ratio.low == pytest.approx(0.5, abs=0.02)
        assert ratio.ratio.high == pytest.approx(0.5, abs=0.02)
    # Seeds whose trainings differ widen the interval.
    uneven = [noisy("a", s, 0.3 + 0.3 * s) for s in (0, 1, 2)]
    apart = frontier_ratios(
        [*uneven, *(noisy("b", s, 1.0) for s in (0, 1, 2))], "a", "b", 0.95, BOOT
    )
    middle = apart[2].ratio
    assert middle.high - middle.low > 0.1
