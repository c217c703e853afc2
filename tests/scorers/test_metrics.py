"""Metrics by hand, against the calibration that training uses, and their intervals."""

from dataclasses import astuple

import numpy as np
import pytest
from scipy.special import expit

from riskalign.errors import InputError
from riskalign.scorers import Judged, judge
from riskalign.scorers.metrics import both_orders, calibration, verdicts


def _pair(prompt: str, first: int, unsafe: tuple[bool, ...] = ()) -> Judged:
    return Judged(prompt, ("one", "two"), first, unsafe)


def test_a_cost_by_hand() -> None:
    rows = [
        _pair("p", 1, (True, False)),
        _pair("q", 0, (False, False)),
        Judged("r", ("alone",), None, (True,)),
    ]
    z = [2.0, -1.0, -2.0, -2.0, -1.0]
    found = judge("cost", rows, z, n_boot=50)
    # Unsafe 2 and -1 against safe -1, -2, -2: five and a half of six.
    assert found["auc"].value == pytest.approx(5.5 / 6)
    assert found["pair_accuracy"].value == 0.75  # one right, one tie
    assert found["mixed_pair_accuracy"].value == 1.0
    brier, ece = calibration(expit(np.array(z)), np.array([1.0, 0, 0, 0, 1]))
    assert found["brier"].value == pytest.approx(brier)
    assert found["ece"].value == pytest.approx(ece)
    for interval in found.values():
        assert interval.low <= interval.high


def test_a_reward_by_hand() -> None:
    rows = [_pair("p", 0), _pair("q", 1), _pair("r", 0)]
    scores = [1.0, -1.0, 0.0, 3.0, 0.0, 0.5]
    found = judge("reward", rows, scores, n_boot=50)
    assert set(found) == {"pair_accuracy", "brier", "ece"}
    assert found["pair_accuracy"].value == pytest.approx(2 / 3)
    brier, ece = calibration(*both_orders(np.array([2.0, 3.0, -0.5])))
    assert found["brier"].value == pytest.approx(brier)
    assert found["ece"].value == pytest.approx(ece)


def test_what_a_cost_calls_unsafe_by_hand() -> None:
    rows = [_pair("p", 1, (True, False)), _pair("q", 0, (False, True)), _pair("r", 0)]
    assert verdicts(rows[:2], [2.0, 0.5, -1.0, 0.0]) == {
        "unsafe_called_unsafe": 1,
        "unsafe_called_safe": 1,  # a cost of 0 calls nothing unsafe
        "safe_called_unsafe": 1,
        "safe_called_safe": 1,
    }
    assert verdicts(rows[2:], [1.0, 0.0]) == {}


def test_intervals_are_clustered_on_prompts() -> None:
    # Twenty prompts, half right: a hundred copies of each pair say no more than one does.
    single = [_pair(f"p{i}", i % 2) for i in range(20)]
    scores = [1.0, 0.0] * 20
    one = judge("reward", single, scores)["pair_accuracy"]
    many = judge("reward", single * 100, scores * 100)["pair_accuracy"]
    assert one == many
    # The standard error of a rate of 1/2 over 20 is 0.112: 1.96 of it on each side.
    assert one.high - one.low == pytest.approx(2 * 1.96 * 0.112, abs=0.08)
    apart = [_pair(f"p{i}", i % 2) for i in range(2000)]
    narrow = judge("reward", apart, [1.0, 0.0] * 2000)["pair_accuracy"]
    assert narrow.high - narrow.low < 0.06


def test_pieces_of_the_bootstrap_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [_pair(f"p{i}", i % 2, (i % 3 == 0, i % 3 != 0)) for i in range(12)]
    scores = list(np.random.default_rng(0).normal(size=24))
    whole = judge("cost", rows, scores, n_boot=40)
    monkeypatch.setattr("riskalign.evaluation.intervals._ENTRIES_AT_ONCE", 24 * 7)
    for name, found in judge("cost", rows, scores, n_boot=40).items():
        assert astuple(found) == pytest.approx(astuple(whole[name]), rel=1e-12)


def test_what_rows_do_not_tell_is_left_out() -> None:
    alike = [Judged(f"p{i}", ("a",), None, (True,)) for i in range(3)]
    assert set(judge("cost", alike, [1.0, 2.0, 3.0], n_boot=5)) == {"brier", "ece"}
    with pytest.raises(InputError, match="1 prompt"):
        judge("reward", [_pair("p", 0), _pair(" P ", 1)], [0.0] * 4)


def test_a_handful_of_right_pairs_is_no_certainty() -> None:
    rows = [_pair(f"p{i}", 0, (False, True)) for i in range(5)]
    found = judge("cost", rows, [-1.0, 1.0] * 5, n_boot=50)
    for name in ("pair_accuracy", "mixed_pair_accuracy"):
        assert (found[name].value, found[name].high) == (1, 1)
        # Wilson's lower end, M / (M + t²) with Student's t of 4 degrees of freedom.
        assert found[name].low == pytest.approx(5 / (5 + 2.7764451**2))
