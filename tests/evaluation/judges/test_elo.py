"""Ratings against values worked out by hand, scipy's optimiser, and the model's symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.special import expit

from riskalign.errors import InputError
from riskalign.evaluation import Bootstrap, Floats
from riskalign.evaluation.judges.results import elo_ratings, strengths

#: Tables of wins in which everyone has beaten everyone.
tables = st.integers(2, 5).flatmap(
    lambda S: arrays(np.float64, (S, S), elements=st.integers(1, 40).map(float))
)


def off_diagonal(wins: Floats) -> Floats:
    return wins * (1 - np.eye(len(wins)))


def elo(names: list[str], wins: Floats, anchor: str) -> dict[str, float | None]:
    """Ratings of one table, all in a single prompt."""
    return {r.name: r.elo for r in elo_ratings(names, wins[None], anchor)}


def test_three_wins_of_four_are_190_points() -> None:
    # Odds of 3: 400 log10(3) = 190.85.
    wins = np.array([[0.0, 75.0], [25.0, 0.0]])
    found = elo(["new", "old"], wins, "old")
    assert found["old"] == 1000
    assert found["new"] == pytest.approx(1190.85, abs=0.01)


def test_ties_are_half_wins_and_even_is_even() -> None:
    assert elo(["a", "b"], np.array([[0, 3.5], [3.5, 0]]), "b") == {"a": 1000, "b": 1000}


def test_three_in_a_row_add_up() -> None:
    # a beats b 10:1, b beats c 10:1, a and c never met: 400 points each step.
    wins = np.array([[0, 10, 0], [1, 0, 10], [0, 1, 0.0]])
    found = elo(["a", "b", "c"], wins, "c")
    assert found["b"] == pytest.approx(1400)
    assert found["a"] == pytest.approx(1800)


def test_a_chain_of_five_is_connected_from_end_to_end() -> None:
    wins = np.zeros((1, 5, 5))
    for i in range(4):
        wins[0, i, i + 1], wins[0, i + 1, i] = 10, 1
    ratings = elo_ratings(list("abcde"), wins, "e")
    assert [rating.elo for rating in ratings] == pytest.approx([2600, 2200, 1800, 1400, 1000])
    assert all(rating.finite for rating in ratings)


def test_only_wins_are_finite_by_half_a_win_and_marked() -> None:
    # (20 + 1/2) : 1/2 = 41.
    wins = np.zeros((20, 2, 2))
    wins[:, 0, 1] = 1
    winner, anchor = elo_ratings(["new", "old"], wins, "old")
    assert winner.elo == pytest.approx(1000 + 400 * math.log10(41))
    assert (winner.finite, winner.low, winner.high) == (False, None, None)
    assert anchor.finite
    loser, _ = elo_ratings(["new", "old"], wins.transpose(0, 2, 1), "old")
    assert loser.elo == pytest.approx(1000 - 400 * math.log10(41))
    assert (loser.finite, loser.low, loser.high) == (False, None, None)


def test_a_gap_marks_those_beyond_it_only() -> None:
    # a beats b and c always; b and c share their wins.
    wins = np.zeros((40, 3, 3))
    wins[:, 0, 1:] = 1
    wins[:30, 1, 2] = 1
    wins[30:, 2, 1] = 1
    a, b, c = elo_ratings(["a", "b", "c"], wins, "c", Bootstrap(200))
    assert (a.finite, b.finite, c.finite) == (False, True, True)
    assert a.low is None
    assert b.low is not None and b.high is not None and b.elo is not None  # noqa: PT018
    assert b.low < b.elo < b.high


def test_who_never_met_the_anchor_has_no_rating() -> None:
    wins = np.zeros((1, 3, 3))
    wins[0, 0, 1] = wins[0, 1, 0] = 2
    ratings = elo_ratings(["a", "b", "c"], wins, "a")
    assert [rating.elo for rating in ratings] == [1000, 1000, None]
    assert [r.elo for r in elo_ratings(["a", "b"], np.zeros((0, 2, 2)), "a")] == [1000, None]


def test_few_prompts_that_differ_give_no_interval() -> None:
    wins = np.zeros((30, 2, 2))
    wins[:21, 0, 1] = 1
    wins[21:, 1, 0] = 1
    assert elo_ratings(["a", "b"], wins, "b", Bootstrap(50))[0].low is None  # nine differ
    wins[20] = wins[21]
    assert elo_ratings(["a", "b"], wins, "b", Bootstrap(50))[0].low is not None


def test_who_almost_always_wins_has_no_interval_though_others_differ() -> None:
    """Three losses of 100 are missing in e^-3 = 5% of the replicates, four in 2%."""
    wins = np.zeros((100, 3, 3))
    wins[:50, 1, 2] = wins[50:, 2, 1] = 1
    for losses, shown in ((3, False), (4, True)):
        wins[:, 0, 2], wins[:, 2, 0] = 1, 0
        wins[:losses, 0, 2], wins[:losses, 2, 0] = 0, 1
        strong, even, _ = elo_ratings(["a", "b", "c"], wins, "c")
        assert strong.finite
        assert ((strong.low is not None), (strong.high is not None)) == (shown, shown)
        assert even.low is not None
        # The same from below, as losses are wins reversed.
        weak = elo_ratings(["a", "b", "c"], wins.transpose(0, 2, 1), "c")[0]
        assert (weak.low is not None) == shown


def test_the_prior_is_in_those_replicates_alone_that_need_it() -> None:
    """b's rating against c is that of a whole number of wins of 100, for nearly all replicates.

    Some replicates, 2%, have none of a's four losses and get the prior.
    """
    wins = np.zeros((100, 3, 3))
    wins[:4, 2, 0] = wins[4:, 0, 2] = 1
    wins[:50, 1, 2] = wins[50:, 2, 1] = 1
    rating = elo_ratings(["a", "b", "c"], wins, "c")[1]
    assert rating.low is not None
    assert rating.high is not None
    for end in (rating.low, rating.high):
        won = 100 / (1 + 10 ** ((1000 - end) / 400))
        assert won == pytest.approx(round(won), abs=1e-6)
        assert 5 < abs(won - 50) < 15


def test_the_interval_is_that_of_the_win_rate() -> None:
    """With two systems a rating is a function of the win rate, whose spread is known."""
    rng = np.random.default_rng(0)
    won = rng.random(400) < 0.7
    wins = np.zeros((400, 2, 2))
    wins[won, 0, 1] = 1
    wins[~won, 1, 0] = 1
    rating = elo_ratings(["a", "b"], wins, "b", Bootstrap(seed=1))[0]
    p = won.mean()
    half = 1.96 * math.sqrt(p * (1 - p) / 400)
    for end, share in ((rating.low, p - half), (rating.high, p + half)):
        assert end == pytest.approx(1000 + 400 * math.log10(share / (1 - share)), abs=8)
    assert rating == elo_ratings(["a", "b"], wins, "b", Bootstrap(seed=1))[0]


@settings(deadline=None)
@given(tables)
def test_it_is_the_maximum(wins: Floats) -> None:
    wins = off_diagonal(wins)
    [theta] = strengths(wins[None])

    def loss(x: Floats) -> float:
        return float(-(wins * np.log(expit(x[:, None] - x[None, :]))).sum())

    found = minimize(loss, np.zeros(len(wins)), method="BFGS")
    np.testing.assert_allclose(theta, found.x - found.x.mean(), atol=2e-4)
    assert loss(theta) <= found.fun + 1e-9


@settings(deadline=None)
@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_the_systems_does_not_matter(wins: Floats, random: object) -> None:
    wins = off_diagonal(wins)
    order = list(range(len(wins)))
    random.shuffle(order)  # type: ignore[attr-defined]
    straight = strengths(wins[None])[0]
    shuffled = strengths(wins[np.ix_(order, order)][None])[0]
    np.testing.assert_allclose(shuffled, straight[order], atol=1e-8)


@settings(deadline=None)
@given(tables, st.floats(0.1, 100))
def test_more_of_the_same_changes_nothing_and_losses_are_wins_reversed(
    wins: Floats, factor: float
) -> None:
    wins = off_diagonal(wins)
    theta = strengths(wins[None])
    np.testing.assert_allclose(strengths(factor * wins[None]), theta, atol=1e-8)
    np.testing.assert_allclose(strengths(wins.T[None]), -theta, atol=1e-8)


@settings(deadline=None)
@given(tables, st.floats(0.5, 50))
def test_ties_draw_ratings_together(wins: Floats, ties: float) -> None:
    wins = off_diagonal(wins)
    theta = strengths(wins[None])[0]
    closer = strengths((wins + ties * (1 - np.eye(len(wins))))[None])[0]
    # With the same ties for every pair the spread can only shrink.
    assert np.ptp(closer) <= np.ptp(theta) + 1e-9


def test_far_apart_is_found_too() -> None:
    wins = np.array([[[0, 1e6], [0.5, 0]], [[0, 1], [1, 0]], [[0, 0.5], [1e9, 0]]])
    theta = strengths(wins)
    expected = np.log([2e6, 1, 0.5e-9])
    np.testing.assert_allclose(theta[:, 0] - theta[:, 1], expected, rtol=1e-9)


def test_refusals() -> None:
    with pytest.raises(InputError, match="anchor"):
        elo_ratings(["a"], np.zeros((1, 1, 1)), "b")
