"""Scales, ticks and escaping."""

from __future__ import annotations

import math

import pytest

from riskalign.evaluation.axes import Scale, element, from_zero, label, linear


def test_linear_scale_by_hand() -> None:
    scale = Scale(0.0, 10.0, 100.0, 300.0)
    assert scale(0) == 100
    assert scale(2.5) == 150
    assert scale(99) == 300
    assert scale.ticks() == [0, 2, 4, 6, 8, 10]


def test_log_scale_puts_decades_apart_evenly() -> None:
    scale = Scale(0.001, 1.0, 300.0, 0.0, knee=0.0)
    assert [round(scale(tick)) for tick in scale.ticks()] == [300, 200, 100, 0]


def test_costs_of_one_size_stay_linear_and_heavy_tails_bend() -> None:
    assert from_zero([0.0, 2.0, 9.0], 0, 100).knee is None
    bent = from_zero([0.0, 0.2, 30.0], 0, 100)
    assert bent.knee == pytest.approx(0.1)
    assert bent(0) == 0
    assert bent.ticks() == pytest.approx([0, 0.1, 1, 10])
    assert 0 < bent(0.2) < bent(2) < bent(30) < 100


@pytest.mark.parametrize("values", [[], [0.0], [3.0, 3.0], [1e-12, 1e12], [-5.0, -5.0]])
def test_any_values_give_finite_positions(values: list[float]) -> None:
    for scale in (linear(values, 0, 100), from_zero([abs(v) for v in values], 0, 100)):
        assert scale.high > scale.low
        assert all(math.isfinite(scale(value)) for value in values)
        assert len(scale.ticks()) <= 20


def test_text_and_attributes_are_escaped() -> None:
    assert label(1.0, 2, "<script>", class_='"x"') == (
        '<text x="1" y="2" class="&#34;x&#34;">&lt;script&gt;</text>'
    )
    assert element("line", stroke_width=1, x1=0.126) == '<line stroke-width="1" x1="0.13"/>'
