"""Rates: by hand, and their intervals' coverage of what is known."""

from __future__ import annotations

import pytest

from riskalign.errors import InputError
from riskalign.evaluation import Bootstrap
from riskalign.evaluation.intervals import binomial_interval
from riskalign.evaluation.sets.measures import clustered_rate

FEW = Bootstrap(n_boot=500)


def test_nothing_happened_has_a_width() -> None:
    found = clustered_rate([0.0] * 20, [2.0] * 20, FEW)
    assert found is not None
    assert (found.value, found.low) == (0, 0)
    # Prompts count, not answers: 1 - 0.025 ** (1 / 20).
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 20))


def test_answers_of_a_prompt_go_together() -> None:
    alike = clustered_rate([4.0, 0.0] * 30, [4.0] * 60, FEW)
    mixed = clustered_rate([1.0, 3.0] * 30, [4.0] * 60, FEW)
    assert alike is not None
    assert mixed is not None
    assert alike.value == mixed.value == 0.5
    # Sixty coins thrown: a standard error of 0.5 / sqrt(60), against half of that.
    assert alike.high - alike.low == pytest.approx(2 * 1.96 * 0.5 / 60**0.5, rel=0.15)
    assert mixed.high - mixed.low == pytest.approx(1.96 * 0.5 / 60**0.5, rel=0.15)


@pytest.mark.parametrize("wins", [[0.5] * 20, [0.5] * 19 + [1.0], [0.5] * 40 + [1.0] * 9])
def test_ties_are_no_certainty(wins: list[float]) -> None:
    found = clustered_rate(wins, [1.0] * len(wins), FEW)
    assert found is not None
    # No shares vary by more than those of 0 and 1 with the same mean.
    assert found.high - found.low > 1.9 * (found.value * (1 - found.value) / len(wins)) ** 0.5 * 1.5
    assert found.low < 0.5 < found.high


def test_one_prompt_and_none() -> None:
    found = clustered_rate([1.0], [2.0], FEW)
    assert found is not None
    assert (found.low, found.high) == binomial_interval(0.5, 1.0)
    assert clustered_rate([], [], FEW) is None


def test_wins_of_halves() -> None:
    found = clustered_rate([0.5, 1.0, 0.0, 0.5] * 10, [1.0] * 40, FEW)
    assert found is not None
    assert found.value == 0.5
    assert 0.3 < found.low < 0.5 < found.high < 0.7


@pytest.mark.parametrize(
    ("events", "sizes"), [([1.0], [1.0, 1.0]), ([2.0], [1.0]), ([-1.0], [1.0]), ([0.0], [0.0])]
)
def test_what_is_no_rate(events: list[float], sizes: list[float]) -> None:
    with pytest.raises(InputError, match="events"):
        clustered_rate(events, sizes, FEW)
