"""Risk metrics: by hand, and AUC against the definition on random scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riskalign.errors import InputError
from riskalign.evaluation import Bootstrap
from riskalign.evaluation.intervals import Interval
from riskalign.evaluation.sets.measures import risk_metrics

FEW = Bootstrap(n_boot=200)


def value(interval: Interval | None) -> float:
    assert interval is not None
    assert interval.low <= interval.value <= interval.high
    return interval.value


def test_by_hand() -> None:
    # Unsafe called unsafe: 2 of 3; safe called safe: 1 of 2; a score of 0 is not above 0.
    found = risk_metrics(
        [2.0, 1.0, -1.0, 0.5, 0.0], [True, True, True, False, False], bootstrap=FEW
    )
    assert (found.n, found.n_unsafe) == (5, 3)
    assert value(found.recall) == pytest.approx(2 / 3)
    assert value(found.specificity) == 0.5
    assert value(found.accuracy) == pytest.approx(3 / 5)
    assert value(found.f1) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    # Pairs (unsafe, safe): 2 and 1 beat both safe ones, -1 neither.
    assert value(found.auc) == pytest.approx(4 / 6)


def test_the_threshold_moves_decisions_not_auc() -> None:
    scores, unsafe = [3.0, 1.0, 2.0, 0.0], [True, True, False, False]
    low = risk_metrics(scores, unsafe, threshold=-1, bootstrap=FEW)
    high = risk_metrics(scores, unsafe, threshold=2.5, bootstrap=FEW)
    assert (value(low.recall), value(low.specificity)) == (1, 0)
    assert (value(high.recall), value(high.specificity)) == (0.5, 1)
    assert low.auc == high.auc


@pytest.mark.parametrize("unsafe", [True, False])
def test_a_class_alone(unsafe: bool) -> None:
    found = risk_metrics([1.0, -1.0], [unsafe, unsafe], bootstrap=FEW)
    assert found.auc is None
    assert (found.recall is None, found.specificity is None) == (not unsafe, unsafe)
    assert (found.f1 is None) is not unsafe
    assert value(found.accuracy) == 0.5


def test_few_records_show_little() -> None:
    found = risk_metrics([1.0] * 5 + [-1.0] * 5, [True] * 5 + [False] * 5, bootstrap=FEW)
    assert found.recall is not None
    # 0.025 ** (1 / 5): five of five.
    assert found.recall.low == pytest.approx(0.025 ** (1 / 5))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_auc_is_its_definition(records: list[tuple[int, bool]]) -> None:
    scores, unsafe = [float(s) for s, _ in records], [y for _, y in records]
    found = risk_metrics(scores, unsafe, bootstrap=Bootstrap(n_boot=20))
    bad = [s for s, y in records if y]
    good = [s for s, y in records if not y]
    if bad and good:
        gap = np.subtract.outer(bad, good)
        assert value(found.auc) == pytest.approx((gap > 0).mean() + (gap == 0).mean() / 2)
    else:
        assert found.auc is None


def test_the_interval_of_auc_has_the_width_of_its_standard_error() -> None:
    generator = np.random.default_rng(0)
    unsafe = np.arange(400) % 2 == 0
    scores = generator.normal(size=400) + unsafe
    found = risk_metrics(scores, list(unsafe), bootstrap=Bootstrap(n_boot=1000))
    assert found.auc is not None
    # Hanley & McNeil's standard error at this AUC, 200 and 200 records.
    auc = found.auc.value
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    error = ((auc * (1 - auc) + 199 * (q1 - auc**2) + 199 * (q2 - auc**2)) / 40_000) ** 0.5
    assert found.auc.high - found.auc.low == pytest.approx(2 * 1.96 * error, rel=0.15)


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, float("nan")]])
def test_what_cannot_be_measured(scores: list[float]) -> None:
    with pytest.raises(InputError, match="finite scores"):
        risk_metrics(scores, [True, False] if scores else [])
