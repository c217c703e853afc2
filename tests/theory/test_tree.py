"""Paths, nested values and tilts on trees small enough to work out by hand."""

import math

import pytest
import torch
from torch import Tensor

from riskalign.errors import InputError
from riskalign.risk import get_risk
from riskalign.theory import TokenMDP, accumulate, mix, nested, tilt
from riskalign.theory.tree import expected_sum, visits


def table(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# Two tokens, two steps: the first costs (1, 0), the second (0, 4) after token 0, (2, 2) after 1.
LOG_REF = (table([0.5, 0.5]).log(), table([0.75, 0.25], [0.5, 0.5]).log())
COST = (table([1.0, 0.0]), table([0.0, 4.0], [2.0, 2.0]))
ZERO = tuple(torch.zeros_like(level) for level in COST)
MDP = TokenMDP(LOG_REF, ZERO, COST)


def test_sums_along_paths_and_probabilities_of_beginnings() -> None:
    assert accumulate(COST).tolist() == [1.0, 5.0, 2.0, 2.0]
    assert accumulate(LOG_REF).exp().tolist() == pytest.approx([0.375, 0.125, 0.25, 0.25])
    assert visits(LOG_REF)[1].tolist() == pytest.approx([0.5, 0.5])
    # 1/2 (1 + 1/4 4) + 1/2 2
    assert float(expected_sum(COST, LOG_REF)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("risk", "after", "at_start"),
    [
        ("mean", [1.0, 2.0], 2.0),
        # After token 0 the worst half of (0: 3/4, 4: 1/4) is (4 + 0)/2 = 2, so Q = (3, 2).
        ("cvar:0.5", [2.0, 2.0], 3.0),
        ("cvar:0.9", [4.0, 2.0], 5.0),
    ],
)
def test_nested_values_by_hand(risk: str, after: list[float], at_start: float) -> None:
    q, v = nested(COST, LOG_REF, get_risk(risk))
    assert v[1].tolist() == pytest.approx(after)
    assert q[0].tolist() == [pytest.approx([1.0 + after[0], after[1]])]
    assert float(v[0]) == pytest.approx(at_start)


def test_tilt_and_mix_by_hand() -> None:
    [tilted] = tilt((table([0.5, 0.5]).log(),), (table([0.0, math.log(3)]),), 1.0)
    assert tilted.exp().tolist() == [pytest.approx([0.75, 0.25])]
    [dialled] = mix((table([0.5, 0.5]).log(),), (tilted,), 2.0)
    # (1/2)^-1 (3/4, 1/4)^2 is in the ratio 9 : 1.
    assert dialled.exp().tolist() == [pytest.approx([0.9, 0.1])]


@pytest.mark.parametrize(
    ("levels", "word"),
    [
        ((LOG_REF, ZERO, COST[:1]), "cost: 1 levels"),
        ((LOG_REF, (ZERO[1], ZERO[1]), COST), "reward: level 0"),
        (((LOG_REF[0] + 0.1, LOG_REF[1]), ZERO, COST), "sum to 1"),
        (((table([0.0, -math.inf]), LOG_REF[1]), ZERO, COST), "positive"),
        (((), (), ()), "log_ref: 0 levels"),
    ],
)
def test_trees_that_are_none(levels: tuple[tuple[Tensor, ...], ...], word: str) -> None:
    with pytest.raises(InputError, match=word):
        TokenMDP(*levels)
