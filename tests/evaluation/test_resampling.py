"""Draws and intervals, and the area under the ROC curve by hand and pair by pair."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riskalign.errors import InputError
from riskalign.evaluation import Bootstrap
from riskalign.evaluation.intervals import auc_statistic


def test_bootstrap_settings_and_draws() -> None:
    with pytest.raises(InputError, match="n_boot: 0"):
        Bootstrap(n_boot=0)
    with pytest.raises(InputError, match="confidence"):
        Bootstrap(confidence=1.0)
    blocks = Bootstrap(n_boot=7, seed=3).draws(600_000)
    assert [block.shape[0] for block in blocks] == [3, 3, 1]
    assert all((block.sum(axis=1) == 600_000).all() for block in blocks)
    assert not np.array_equal(blocks[0][0], blocks[1][0])


def test_a_replicate_of_many_entries_makes_smaller_blocks() -> None:
    bootstrap = Bootstrap(n_boot=5)
    few, many = bootstrap.draws(10), bootstrap.draws(10, entries=1_000_000)
    assert [len(block) for block in many] == [2, 2, 1]
    assert np.array_equal(np.concatenate(few), np.concatenate(many))


def test_an_interval_is_of_the_statistics_replicates() -> None:
    values = np.arange(20.0)
    bootstrap = Bootstrap(n_boot=400, seed=1, confidence=0.8)
    found = bootstrap.interval(lambda draws: draws @ values / 20, 20)
    many = np.concatenate(bootstrap.draws(20)) @ values / 20
    assert found.value == 9.5
    assert (found.low, found.high) == tuple(np.quantile(many, [0.1, 0.9]))


@pytest.mark.parametrize(
    ("scores", "labels", "area"),
    [
        ([1, 2, 2, 3], [0, 0, 1, 1], 0.875),
        ([0, 0, 0], [0, 1, 1], 0.5),
        ([3, 2, 1], [0, 0, 1], 0.0),
        ([1, 2], [0, 1], 1.0),
    ],
)
def test_auc_by_hand_with_ties(scores: list[float], labels: list[float], area: float) -> None:
    statistic = auc_statistic(
        np.array(scores, dtype=float), np.array(labels, dtype=float), np.arange(len(scores))
    )
    assert statistic(np.ones((1, len(scores))))[0] == area


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=2))
def test_weighted_auc_counts_every_pair(cases: list[tuple[int, bool, int]]) -> None:
    scores, labels, weights = (np.array(column, dtype=float) for column in zip(*cases, strict=True))
    wins = total = 0.0
    for (s, a, u), (t, b, v) in product(cases, cases):
        if a and not b:
            total += u * v
            wins += u * v * ((s > t) + (s == t) / 2)
    found = auc_statistic(scores, labels, np.arange(len(cases)))(weights[None, :])[0]
    assert math.isnan(found) if total == 0 else found == pytest.approx(wins / total)
