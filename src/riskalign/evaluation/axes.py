"""Scales, frames and SVG elements: what every chart of the report is drawn with.

Charts carry classes and no colours of their own, so that the page's style sheet can follow the
reader's light or dark setting; `currentColor` takes a series' colour from its class.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import escape

from riskalign.evaluation.wording import tick_text

#: A range wider than this factor is not read off a linear axis.
HEAVY = 50.0
_CORNERS = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    "triangle": [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
}


def element(tag: str, *content: str, **attributes: object) -> str:
    """One SVG element; attribute values are escaped, content is taken as markup.

    A trailing underscore is dropped from an attribute's name (`class_`), others become hyphens.
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{given}>{''.join(content)}</{tag}>" if content else f"<{tag}{given}/>"


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def label(x: float, y: float, content: object, **attributes: object) -> str:
    """A text element; its content is escaped."""
    return element("text", str(escape(content)), x=x, y=y, **attributes)


def hover(content: object) -> str:
    """The text a browser shows while the pointer rests on the group around it."""
    return element("title", str(escape(content)))


def line(x: Sequence[float], y: Sequence[float], css: str) -> str:
    """A straight line between two points, x and y of both given."""
    return element("line", x1=x[0], x2=x[-1], y1=y[0], y2=y[-1], class_=css)


def path(points: Iterable[tuple[float, float]], **attributes: object) -> str:
    """A line through points in pixels."""
    steps = "".join(f"{'L' if i else 'M'}{x:.2f} {y:.2f}" for i, (x, y) in enumerate(points))
    return element("path", d=steps, **attributes)


def marker(x: float, y: float, shape: str, size: float = 5.5) -> str:
    """A circle, square, diamond or triangle around a point."""
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=size, class_="mark")
    points = " ".join(f"{x + size * dx:.2f},{y + size * dy:.2f}" for dx, dy in _CORNERS[shape])
    return element("polygon", points=points, class_="mark")


@dataclass(frozen=True)
class Scale:
    """A value's position along an axis, start to end in pixels.

    `knee` is None for a linear scale, 0 for a logarithmic one; above 0 the scale is linear below
    about the knee and logarithmic above it (an inverse hyperbolic sine), so that it can hold 0.
    """

    low: float
    high: float
    start: float
    end: float
    knee: float | None = None

    def _bend(self, value: float) -> float:
        if self.knee is None:
            return value
        return math.asinh(value / self.knee) if self.knee else math.log10(value)

    def __call__(self, value: float) -> float:
        low, high = self._bend(self.low), self._bend(self.high)
        share = (self._bend(min(max(value, self.low), self.high)) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values inside the range, at most about `most` of them."""
        if self.knee is None:
            rough = (self.high - self.low) / most
            power = 10.0 ** math.floor(math.log10(rough))
            size = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
            first, last = math.ceil(self.low / size - 1e-9), math.floor(self.high / size + 1e-9)
            return [size * i for i in range(first, last + 1)]
        first = math.ceil(math.log10(self.knee or self.low) - 1e-9)
        last = math.floor(math.log10(self.high) + 1e-9)
        step = max(1, math.ceil((last - first + 1) / most))
        decades = [10.0**power for power in range(first, last + 1, step)]
        inside = [tick for tick in decades if self.low <= tick <= self.high]
        return ([0.0] if self.knee else []) + inside


def linear(values: Iterable[float], start: float, end: float, zero: bool = False) -> Scale:
    """A linear scale that holds all finite values with a little room, from 0 on where asked."""
    values = [value for value in values if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if zero:
        low = min(low, 0.0)
    room = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return Scale(low if low == 0 else low - room, high + room, start, end)


def from_zero(values: Iterable[float], start: float, end: float) -> Scale:
    """A scale for costs: linear where they are of one size, bent where they are heavy-tailed."""
    positive = [value for value in values if 0 < value < math.inf]
    high = max(positive, default=1.0)
    if high <= HEAVY * min(positive, default=1.0):
        return Scale(0.0, high * 1.06, start, end)
    # A tiny cost must not stretch the axis over decades that hold nothing else.
    knee = max(min(positive), high * 1e-3)
    return Scale(0.0, high * 1.5, start, end, knee=10.0 ** math.floor(math.log10(knee) + 1e-9))


class Frame(NamedTuple):
    """A chart's size and the box inside its axes, in pixels of its own view box."""

    width: float
    height: float
    left: float
    top: float
    right: float
    bottom: float

    def axes(
        self, x: Scale, y: Scale | None, x_title: str, y_title: str, *, percent: bool = False
    ) -> str:
        """Grid, tick labels and titles; `percent` writes the vertical ticks in percent."""
        parts = []
        for tick in x.ticks():
            at = x(tick)
            parts.append(line([at], [self.top, self.bottom], "grid"))
            parts.append(
                label(at, self.bottom + 18, tick_text(tick), class_="tick", text_anchor="middle")
            )
        for tick in y.ticks(5) if y else ():
            assert y is not None
            at = y(tick)
            shown = f"{tick_text(100 * tick)} %" if percent else tick_text(tick)
            parts.append(line([self.left, self.right], [at], "grid"))
            parts.append(label(self.left - 7, at + 4, shown, class_="tick", text_anchor="end"))
        if x_title:
            middle = (self.left + self.right) / 2
            parts.append(
                label(middle, self.height - 6, x_title, class_="axis", text_anchor="middle")
            )
        if y_title:
            parts.append(label(2, self.top - 18, y_title, class_="axis"))
        width, height = self.right - self.left, self.bottom - self.top
        parts.append(
            element("rect", x=self.left, y=self.top, width=width, height=height, class_="frame")
        )
        return "".join(parts)

    def svg(self, *content: str, title: str) -> str:
        """The whole drawing, named for readers who cannot see it."""
        box = f"0 0 {self.width:g} {self.height:g}"
        return element("svg", *content, viewBox=box, role="img", aria_label=title, class_="chart")
