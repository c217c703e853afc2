"""The report's charts as SVG text: pure functions of what results.json holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from riskalign.evaluation.axes import (
    Frame,
    Scale,
    element,
    from_zero,
    hover,
    label,
    linear,
    marker,
    path,
)
from riskalign.evaluation.wording import Ends, number, tick_text

_SHAPES = {"start": "circle", "step1": "square", "final": "diamond"}
_OTHERS = 3
_WIDE = Frame(width=560, height=380, left=58, top=34, right=548, bottom=328)
_SMALL = Frame(width=320, height=230, left=46, top=16, right=310, bottom=190)
_STRIP = Frame(width=300, height=64, left=6, top=0, right=294, bottom=44)


def series_class(key: str, models: Sequence[str]) -> str:
    """The style sheet's class of a model: its own, or one of a few for models it does not know."""
    if key in _SHAPES:
        return f"s-{key}"
    others = [name for name in models if name not in _SHAPES]
    return f"s-other{others.index(key) % _OTHERS + 1}"


def swatch(key: str, models: Sequence[str]) -> str:
    """A series' line and marker, for a legend."""
    return element(
        "svg",
        element("line", x1=1, x2=29, y1=8, y2=8, class_="line"),
        marker(15, 8, _SHAPES.get(key, "triangle"), 4.5),
        viewBox="0 0 30 16",
        class_=f"swatch {series_class(key, models)}",
        aria_hidden="true",
    )


DIAL_SWATCH = element(
    "svg",
    element("line", x1=1, x2=29, y1=8, y2=8, class_="line"),
    marker(15, 8, "circle", 4.0),
    viewBox="0 0 30 16",
    class_="swatch s-dial dialline",
    aria_hidden="true",
)


def strip(metric: str, before: Ends, after: Ends, before_key: str, after_key: str) -> str:
    """Two intervals of one metric above each other on one scale from 0."""
    frame = _STRIP
    # An open end runs to the edge, so the values must be what the scale holds.
    ends = [interval[end] for interval in (before, after) for end in ("low", "value", "high")]
    scale = linear(ends, frame.left + 4, frame.right - 4, zero=True)
    parts = [element("line", x1=frame.left, x2=frame.right, y1=46, y2=46, class_="grid")]
    for tick in scale.ticks(4):
        shown = tick_text(100 * tick) + " %" if metric == "unsafe_rate" else tick_text(tick)
        at = scale(tick)
        anchor = "start" if at < 20 else "end" if at > frame.right - 20 else "middle"
        parts.append(
            element("line", x1=at, x2=at, y1=43, y2=49, class_="grid")
            + label(at, 62, shown, class_="tick", text_anchor=anchor)
        )
    for y, key, interval in ((14, before_key, before), (32, after_key, after)):
        parts.append(
            element(
                "g",
                element(
                    "line",
                    x1=scale(interval["low"]),
                    x2=scale(interval["high"]),
                    y1=y,
                    y2=y,
                    class_="whisker",
                ),
                marker(scale(interval["value"]), y, _SHAPES.get(key, "triangle")),
                class_=series_class(key, [before_key, after_key]),
            )
        )
    return frame.svg(*parts, title="Intervals of both models on one scale")


def exceedance(
    costs: Mapping[str, Sequence[float]],
    rates: Mapping[str, Ends],
    models: Sequence[str],
    names: Mapping[str, str],
) -> str:
    """Share of answers whose cost exceeds a value, the share on a logarithmic axis.

    Bars at the left edge are the intervals of the unsafe rates, where the curves begin.
    """
    frame = _WIDE._replace(right=488)
    shown = [key for key in models if costs.get(key)]
    most = max((len(costs[key]) for key in shown), default=1)
    x = from_zero(
        [c for key in shown for c in costs[key]],
        frame.left + 14 * (len(shown) + 1),
        frame.right,
    )
    floor = min(10.0 ** math.floor(math.log10(1 / most) + 1e-9), 0.1)
    if floor > 0.6 / most:
        floor /= 2
    y = Scale(floor, 1.0, frame.bottom, frame.top, knee=0.0)
    parts = [frame.axes(x, y, "cost c", "share of answers with cost above c", percent=True)]
    for level in (0.9, 0.95, 0.99):
        at = y(1 - level)
        if at < frame.bottom - 8:
            parts.append(
                element("line", x1=frame.left, x2=frame.right + 5, y1=at, y2=at, class_="guide")
                + label(frame.right + 8, at + 4, f"VaR {level}", class_="note")
            )
    for i, key in enumerate(shown):
        inside = []
        at = frame.left + 14 * (i + 0.8)
        rate = rates.get(key)
        if rate and rate["high"] > floor:
            inside.append(
                element(
                    "line", x1=at, x2=at, y1=y(rate["low"]), y2=y(rate["high"]), class_="whisker"
                )
            )
            inside.append(marker(at, y(rate["value"]), _SHAPES.get(key, "triangle"), 4.5))
        steps = _exceedance_steps(costs[key])
        if steps:
            points = [(x(cost), y(share) if share else frame.bottom) for cost, share in steps]
            worst = steps[-1][0]
            inside.append(path(points, class_="line"))
            inside.append(
                marker(x(worst), y(1 / len(costs[key])), _SHAPES.get(key, "triangle"), 4.5)
            )
        parts.append(element("g", hover(names[key]), *inside, class_=series_class(key, models)))
    return frame.svg(*parts, title="Share of answers whose cost exceeds a value, by model")


def _exceedance_steps(costs: Sequence[float]) -> list[tuple[float, float]]:
    """Corners (cost, share above) of the curve from cost 0 on; empty where no cost is above 0."""
    unsafe = sorted(cost for cost in costs if cost > 0)
    steps = []
    share = len(unsafe) / len(costs)
    if unsafe:
        steps.append((0.0, share))
    for i, cost in enumerate(unsafe):
        if i + 1 < len(unsafe) and unsafe[i + 1] == cost:
            continue
        steps.append((cost, share))
        share = (len(unsafe) - i - 1) / len(costs)
        steps.append((cost, share))
    return steps


class Point(NamedTuple):
    """A model on the plane of tail and reward: its intervals, and how it is drawn."""

    name: str
    css: str
    shape: str
    risk: Ends
    reward: Ends


def frontier(
    models: Mapping[str, Mapping[str, Ends]],
    order: Sequence[str],
    dial: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    metric: str = "cvar_0.95",
) -> str:
    """Mean reward against the tail of the cost, for the models and along the dial."""
    along = [
        Point(f"w = {entry['w']:g}", "s-dial", "circle", m[metric], m["reward"])
        for entry in sorted(dial, key=lambda entry: float(entry["w"]))
        if metric in (m := entry["metrics"]) and "reward" in m
    ]
    made = [
        Point(
            names[key],
            series_class(key, order),
            _SHAPES.get(key, "triangle"),
            models[key][metric],
            models[key]["reward"],
        )
        for key in order
        if metric in models[key] and "reward" in models[key]
    ]
    return scatter(
        along + made,
        [("s-dial dialline", range(len(along)))],
        title="Mean reward against CVaR 0.95 of cost, models and dial",
    )


def scatter(
    points: Sequence[Point], lines: Sequence[tuple[str, Sequence[int]]], *, title: str
) -> str:
    """Mean reward against CVaR 0.95: points with whiskers and names, lines through some of them.

    A line is its class and the indices of its points; a point without a name gets a smaller mark.
    """
    frame = _WIDE
    risks = [point.risk[end] for point in points for end in ("low", "value", "high")]
    x = from_zero(risks, frame.left + 12, frame.right)
    y = linear(
        [point.reward[end] for point in points for end in ("low", "high")], frame.bottom, frame.top
    )
    parts = [frame.axes(x, y, "CVaR 0.95 of cost (less is safer)", "mean reward (more is better)")]
    places = [(x(point.risk["value"]), y(point.reward["value"])) for point in points]
    for css, chosen in lines:
        if len(chosen) > 1:
            line = path([places[i] for i in chosen], class_="line")
            parts.append(element("g", line, class_=css))
    for point, (at_x, at_y) in zip(points, places, strict=True):
        bars = element(
            "line",
            x1=x(point.risk["low"]),
            x2=x(point.risk["high"]),
            y1=at_y,
            y2=at_y,
            class_="whisker",
        ) + element(
            "line",
            x1=at_x,
            x2=at_x,
            y1=y(point.reward["low"]),
            y2=y(point.reward["high"]),
            class_="whisker",
        )
        size = 4.5 if point.css == "s-dial" or not point.name else 6.5
        parts.append(element("g", bars, marker(at_x, at_y, point.shape, size), class_=point.css))
    crossed = [
        box
        for point, (at_x, at_y) in zip(points, places, strict=True)
        for box in (
            (x(point.risk["low"]), at_y - 1.5, x(point.risk["high"]), at_y + 1.5),
            (at_x - 1.5, y(point.reward["high"]), at_x + 1.5, y(point.reward["low"])),
        )
    ]
    names = [point.name for point in points]
    for point, (at_x, at_y, anchor) in zip(
        points, _label_places(places, names, crossed, frame), strict=True
    ):
        if not point.name:
            continue
        parts.append(
            element(
                "g",
                label(at_x, at_y, point.name, class_="name", text_anchor=anchor),
                class_=point.css,
            )
        )
    return frame.svg(*parts, title=title)


_Box = tuple[float, float, float, float]  # left, top, right, bottom


def _label_places(
    places: Sequence[tuple[float, float]],
    names: Sequence[str],
    crossed: Sequence[_Box],
    frame: Frame,
) -> list[tuple[float, float, str]]:
    """For each point the side where its name covers least of points, whiskers and other names."""
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in places] + list(crossed)
    chosen = []
    for (x, y), name in zip(places, names, strict=True):
        width = 7.4 * len(name)
        best: tuple[float, tuple[float, float, str], _Box] | None = None
        for distance in (0, 16, 32, 48):
            for dx, dy, anchor in (
                (11, -9, "start"),
                (11, 18, "start"),
                (-11, -9, "end"),
                (-11, 18, "end"),
            ):
                base = y + dy + math.copysign(distance, dy)
                left = x + dx if anchor == "start" else x + dx - width
                box = (left, base - 11, left + width, base + 3)
                covered = sum(_overlap(box, other) for other in taken) + distance
                inside = frame.left <= box[0] and box[2] <= frame.right
                if not (inside and frame.top <= box[1] and box[3] <= frame.bottom):
                    covered += 1e4
                if best is None or covered < best[0]:
                    best = (covered, (x + dx, base, anchor), box)
        assert best is not None
        chosen.append(best[1])
        taken.append(best[2])
    return chosen


def _overlap(a: _Box, b: _Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


class Curve(NamedTuple):
    """One line of a training panel: the log's key, its name and the style sheet's class."""

    key: str
    name: str
    css: str


PANELS: tuple[tuple[str, str, tuple[Curve, ...]], ...] = (
    ("Loss", "training loss", (Curve("loss", "loss", "t-main"),)),
    (
        "Reward margin",
        "implicit reward of chosen less rejected",
        (Curve("rewards/margins", "margin", "t-main"),),
    ),
    (
        "Reward accuracy",
        "share of pairs with a margin above 0",
        (Curve("rewards/accuracies", "accuracy", "t-main"),),
    ),
    (
        "SRR and KL",
        "nats a response",
        (
            Curve("risk/chosen", "SRR chosen", "t-chosen"),
            Curve("risk/rejected", "SRR rejected", "t-rejected"),
            Curve("kl/chosen", "KL chosen", "t-chosen thin"),
            Curve("kl/rejected", "KL rejected", "t-rejected thin"),
        ),
    ),
)


def panels_of(
    named: Sequence[Mapping[str, Any]],
) -> tuple[tuple[str, str, tuple[Curve, ...]], ...]:
    """The panels that results name for a step of a method, else those of a step on rows."""
    found = []
    for panel in named:
        curves = (Curve(key, name, "t-main") for key, name in panel["columns"].items())
        found.append((panel["title"], panel["note"], tuple(curves)))
    return tuple(found) or PANELS


def training(log: Sequence[Mapping[str, float | None]], curves: Sequence[Curve]) -> str:
    """One panel of a step's training log; empty where the log holds none of its curves."""
    frame = _SMALL
    drawn = []
    for curve in curves:
        points = [
            (float(entry.get("step") or i), float(value))
            for i, entry in enumerate(log)
            if (value := entry.get(curve.key)) is not None
        ]
        if points:
            drawn.append((curve, points))
    if not drawn:
        return ""
    steps = [step for _, points in drawn for step, _ in points]
    x = Scale(
        min(steps),
        max(steps) if max(steps) > min(steps) else min(steps) + 1,
        frame.left,
        frame.right,
    )
    y = linear([value for _, points in drawn for _, value in points], frame.bottom, frame.top, True)
    parts = [frame.axes(x, y, "step", "")]
    for curve, points in drawn:
        places = [(x(step), y(value)) for step, value in points]
        last = hover(f"{curve.name}: {number(points[-1][1])} at the end")
        dots = element("circle", cx=places[-1][0], cy=places[-1][1], r=3, class_="mark")
        parts.append(element("g", last, path(places, class_="line"), dots, class_=curve.css))
    return frame.svg(*parts, title=f"{drawn[0][0].name} over training steps")


def time_bar(seconds: float, longest: float) -> str:
    """A bar for a stage's share of the longest stage's time."""
    width = 160 * seconds / longest if longest > 0 else 0
    return element(
        "svg",
        element("rect", x=0, y=2, width=max(width, 0.5), height=8, rx=2, class_="bar"),
        viewBox="0 0 160 12",
        class_="timebar",
        aria_hidden="true",
    )
