"""The report's charts as SVG text: pure functions of what results.json holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby, product
from typing import Any, NamedTuple

from riskalign.evaluation.axes import (
    Frame,
    Scale,
    element,
    from_zero,
    hover,
    label,
    line,
    linear,
    marker,
    path,
)
from riskalign.evaluation.metrics import TAIL_LEVELS, Metric
from riskalign.evaluation.wording import (
    Ends,
    limit_words,
    model_names,
    model_order,
    number,
    tick_text,
)

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


def _shape(key: str) -> str:
    return _SHAPES.get(key, "triangle")


def _swatch(mark: str, css: str) -> str:
    """A line with a mark, for a legend."""
    content = line([1, 29], [8], "line") + mark
    return element("svg", content, viewBox="0 0 30 16", class_=f"swatch {css}", aria_hidden="true")


def swatch(key: str, models: Sequence[str]) -> str:
    """A model's line and marker, for a legend."""
    return _swatch(marker(15, 8, _shape(key), 4.5), series_class(key, models))


DIAL_SWATCH = _swatch(marker(15, 8, "circle", 4.0), "s-dial dialline")


def strip(metric: Metric, before: Ends, after: Ends, before_key: str, after_key: str) -> str:
    """Two intervals of one metric above each other on one scale from 0."""
    frame = _STRIP
    # An open end runs to the edge, so the values must be what the scale holds.
    ends = [interval[end] for interval in (before, after) for end in ("low", "value", "high")]
    x = linear(ends, frame.left + 4, frame.right - 4, zero=True)
    parts = [line([frame.left, frame.right], [46], "grid")]
    for tick in x.ticks(4):
        shown = f"{tick_text(100 * tick)} %" if metric.unit == "share" else tick_text(tick)
        at = x(tick)
        anchor = "start" if at < 20 else "end" if at > frame.right - 20 else "middle"
        parts.append(line([at], [43, 49], "grid"))
        parts.append(label(at, 62, shown, class_="tick", text_anchor=anchor))
    for y, key, interval in ((14, before_key, before), (32, after_key, after)):
        whisker = line([x(interval["low"]), x(interval["high"])], [y], "whisker")
        mark = marker(x(interval["value"]), y, _shape(key))
        css = series_class(key, [before_key, after_key])
        parts.append(element("g", whisker, mark, class_=css))
    return frame.svg(*parts, title="Intervals of both models on one scale")


def exceedance(results: Mapping[str, Any]) -> str:
    """Share of answers whose cost exceeds a value, on a logarithmic axis; empty without costs.

    Bars at the left edge are the intervals of the unsafe rates, where the curves begin.
    """
    models, names = model_order(results["models"]), model_names(results)
    costs = {key: own for key in models if (own := results["costs"].get(key))}
    if not costs:
        return ""
    frame = _WIDE._replace(right=488)
    most = max(map(len, costs.values()))
    edge = frame.left + 14 * (len(costs) + 1)
    x = from_zero([cost for own in costs.values() for cost in own], edge, frame.right)
    floor = min(10.0 ** math.floor(math.log10(1 / most) + 1e-9), 0.1)
    if floor > 0.6 / most:
        floor /= 2
    y = Scale(floor, 1.0, frame.bottom, frame.top, knee=0.0)
    parts = [frame.axes(x, y, "cost c", "share of answers with cost above c", percent=True)]
    for level in TAIL_LEVELS:
        at = y(1 - level)
        if at < frame.bottom - 8:
            parts.append(line([frame.left, frame.right + 5], [at], "guide"))
            parts.append(label(frame.right + 8, at + 4, f"VaR {level}", class_="note"))
    for i, (key, own) in enumerate(costs.items()):
        inside = [hover(names[key])]
        at = frame.left + 14 * (i + 0.8)
        rate = results["models"][key].get("unsafe_rate")
        if rate and rate["high"] > floor:
            inside.append(line([at], [y(rate["low"]), y(rate["high"])], "whisker"))
            inside.append(marker(at, y(rate["value"]), _shape(key), 4.5))
        if steps := exceedance_steps(own):
            points = [(x(cost), y(share) if share else frame.bottom) for cost, share in steps]
            inside.append(path(points, class_="line"))
            inside.append(marker(points[-1][0], y(1 / len(own)), _shape(key), 4.5))
        parts.append(element("g", *inside, class_=series_class(key, models)))
    return frame.svg(*parts, title="Share of answers whose cost exceeds a value, by model")


def exceedance_steps(costs: Sequence[float]) -> list[tuple[float, float]]:
    """Corners (cost, share above) of the curve from cost 0 on; empty where no cost is above 0."""
    unsafe = sorted(cost for cost in costs if cost > 0)
    left = len(unsafe)
    steps = [(0.0, left / len(costs))] if unsafe else []
    for cost, alike in groupby(unsafe):
        steps.append((cost, left / len(costs)))
        left -= len(list(alike))
        steps.append((cost, left / len(costs)))
    return steps


class Point(NamedTuple):
    """A model on the plane of tail and reward: its intervals, and how it is drawn."""

    name: str
    css: str
    shape: str
    risk: Ends
    reward: Ends


def frontier(results: Mapping[str, Any], metric: str = "cvar_0.95") -> str:
    """Mean reward against the tail of the cost, for the models and along the dial.

    Empty where no model has both.
    """
    order, names = model_order(results["models"]), model_names(results)

    def placed(name: str, css: str, shape: str, found: Mapping[str, Ends]) -> list[Point]:
        measured = metric in found and "reward" in found
        return [Point(name, css, shape, found[metric], found["reward"])] if measured else []

    dial, made = [], []
    for entry in sorted(results["dial"], key=lambda entry: float(entry["w"])):
        dial += placed(f"w = {entry['w']:g}", "s-dial", "circle", entry["metrics"])
    for key in order:
        made += placed(names[key], series_class(key, order), _shape(key), results["models"][key])
    if not made:
        return ""
    title = "Mean reward against CVaR 0.95 of cost, models and dial"
    return scatter(dial + made, [("s-dial dialline", range(len(dial)))], title=title)


def scatter(
    points: Sequence[Point], lines: Sequence[tuple[str, Sequence[int]]], *, title: str
) -> str:
    """Mean reward against CVaR 0.95: points with whiskers and names, lines through some of them.

    A line is its class and the indices of its points; a point without a name gets a smaller mark.
    """
    frame = _WIDE
    risks = [point.risk[end] for point in points for end in ("low", "value", "high")]
    rewards = [point.reward[end] for point in points for end in ("low", "high")]
    x = from_zero(risks, frame.left + 12, frame.right)
    y = linear(rewards, frame.bottom, frame.top)
    parts = [frame.axes(x, y, "CVaR 0.95 of cost (less is safer)", "mean reward (more is better)")]
    places = [(x(point.risk["value"]), y(point.reward["value"])) for point in points]
    for css, chosen in lines:
        if len(chosen) > 1:
            joined = path([places[i] for i in chosen], class_="line")
            parts.append(element("g", joined, class_=css))
    taken: list[_Box] = [(at_x - 7, at_y - 7, at_x + 7, at_y + 7) for at_x, at_y in places]
    for point, (at_x, at_y) in zip(points, places, strict=True):
        left, right = x(point.risk["low"]), x(point.risk["high"])
        bottom, top = y(point.reward["low"]), y(point.reward["high"])
        taken += [(left, at_y - 1.5, right, at_y + 1.5), (at_x - 1.5, top, at_x + 1.5, bottom)]
        bars = line([left, right], [at_y], "whisker") + line([at_x], [bottom, top], "whisker")
        size = 4.5 if point.css == "s-dial" or not point.name else 6.5
        parts.append(element("g", bars, marker(at_x, at_y, point.shape, size), class_=point.css))
    for point, place in zip(points, places, strict=True):
        at_x, at_y, anchor = _place_label(place, point.name, taken, frame)
        if point.name:
            name = label(at_x, at_y, point.name, class_="name", text_anchor=anchor)
            parts.append(element("g", name, class_=point.css))
    return frame.svg(*parts, title=title)


_Box = tuple[float, float, float, float]  # left, top, right, bottom


def _place_label(
    place: tuple[float, float], name: str, taken: list[_Box], frame: Frame
) -> tuple[float, float, str]:
    """Where a point's name covers least of what is drawn; its own box is added to `taken`."""
    width = 7.4 * len(name)
    options: list[tuple[float, tuple[float, float, str], _Box]] = []
    for distance, dx, dy in product((0, 16, 32, 48), (11, -11), (-9, 18)):
        at, base = place[0] + dx, place[1] + dy + math.copysign(distance, dy)
        left = at if dx > 0 else at - width
        box = (left, base - 11, left + width, base + 3)
        covered = sum(_overlap(box, other) for other in taken) + distance
        inside = frame.left <= box[0] and box[2] <= frame.right
        if not (inside and frame.top <= box[1] and box[3] <= frame.bottom):
            covered += 1e4
        options.append((covered, (at, base, "start" if dx > 0 else "end"), box))
    _, chosen, box = min(options, key=lambda option: option[0])
    taken.append(box)
    return chosen


def _overlap(a: _Box, b: _Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


class Curve(NamedTuple):
    """One line of a training panel: the log's key, its name and the style sheet's class."""

    key: str
    name: str
    css: str = "t-main"


#: Title, note and curves of a panel.
Panel = tuple[str, str, tuple[Curve, ...]]

#: What a loss of pairs logs, a step a point.
PANELS: tuple[Panel, ...] = (
    ("Loss", "training loss", (Curve("loss", "loss"),)),
    (
        "Reward margin",
        "implicit reward of chosen less rejected",
        (Curve("rewards/margins", "margin"),),
    ),
    (
        "Reward accuracy",
        "share of pairs with a margin above 0",
        (Curve("rewards/accuracies", "accuracy"),),
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


#: What PPO-Lagrangian logs, an iteration a point.
PPO_PANELS: tuple[Panel, ...] = (
    ("Reward", "mean of an iteration's answers", (Curve("reward", "reward"),)),
    ("Cost", "mean of an iteration's answers", (Curve("cost", "cost"),)),
    ("Multiplier", "λ rises while cost exceeds its limit", (Curve("lambda", "λ"),)),
    ("KL", "to the step's start, nats an answer", (Curve("kl", "KL"),)),
)


def panels_of(
    log: Sequence[Mapping[str, Any]], named: Sequence[Mapping[str, Any]] = ()
) -> tuple[Panel, ...]:
    """The panels that a method names, else those of a step on rows, else one for each number."""
    if named:
        return tuple(
            (each["title"], each["note"], tuple(Curve(*pair) for pair in each["columns"].items()))
            for each in named
        )
    logged = dict.fromkeys(key for entry in log for key in entry)
    if {"iteration", "lambda"} <= logged.keys():  # results of before methods named their panels
        return PPO_PANELS
    if any(curve.key in logged for _, _, curves in PANELS for curve in curves):
        return PANELS
    own = [key for key in logged if key not in ("step", "epoch", "iteration")]
    return tuple((key, "as logged", (Curve(key, key),)) for key in own)


def training(log: Sequence[Mapping[str, float | None]], curves: Sequence[Curve]) -> str:
    """One panel of a step's training log; empty where the log holds none of its curves."""
    frame = _SMALL
    drawn = {
        curve: [
            (float(entry.get("step") or i), float(value))
            for i, entry in enumerate(log)
            if (value := entry.get(curve.key)) is not None
        ]
        for curve in curves
    }
    drawn = {curve: points for curve, points in drawn.items() if points}
    if not drawn:
        return ""
    steps, values = zip(*(point for points in drawn.values() for point in points), strict=True)
    first, last = min(steps), max(steps)
    x = Scale(first, last if last > first else first + 1, frame.left, frame.right)
    y = linear(values, frame.bottom, frame.top, zero=True)
    parts = [frame.axes(x, y, "step", "")]
    for curve, points in drawn.items():
        places = [(x(step), y(value)) for step, value in points]
        end = hover(f"{curve.name}: {number(points[-1][1])} at the end")
        dot = element("circle", cx=places[-1][0], cy=places[-1][1], r=3, class_="mark")
        parts.append(element("g", end, path(places, class_="line"), dot, class_=curve.css))
    return frame.svg(*parts, title=f"{next(iter(drawn)).name} over training steps")


def certificate(found: Mapping[str, Any] | None) -> list[str]:
    """A chart a limit: the estimate and bound of each setting tested, and the limit; or none."""
    charts = []
    for limit in found["limits"] if found else ():
        assert found is not None
        tests = [t for t in found["tests"] if {k: t[k] for k in limit} == limit]
        bottom = 30 + 24 * len(tests)
        frame = Frame(560, bottom + 42, left=150, top=22, right=540, bottom=bottom)
        ends = [value for test in tests for value in (test["estimate"], test["bound"])]
        x = linear([*ends, limit["limit"]], frame.left, frame.right, zero=True)
        parts = [frame.axes(x, None, limit_words(limit).partition(" ≤")[0], "")]
        at = x(limit["limit"])
        parts.append(line([at], [frame.top - 6, frame.bottom], "guide"))
        parts.append(label(at, frame.top - 10, "limit", class_="note", text_anchor="middle"))
        for i, test in enumerate(tests):
            y = frame.top + 16 + 24 * i
            css = "s-final" if test["passed"] else "s-start"
            said = f"{test['setting']}: {number(test['estimate'])}, at most {number(test['bound'])}"
            whisker = line([x(test["estimate"]), x(test["bound"])], [y], "whisker")
            mark = marker(x(test["estimate"]), y, "circle", 4.5)
            name = label(frame.left - 8, y + 4, test["setting"], class_="tick", text_anchor="end")
            parts.append(element("g", hover(said), whisker, mark, class_=css) + name)
        charts.append(frame.svg(*parts, title=f"{limit_words(limit)}, by setting"))
    return charts


def time_bar(seconds: float, longest: float) -> str:
    """A bar for a stage's share of the longest stage's time."""
    width = 160 * seconds / longest if longest > 0 else 0
    bar = element("rect", x=0, y=2, width=max(width, 0.5), height=8, rx=2, class_="bar")
    return element("svg", bar, viewBox="0 0 160 12", class_="timebar", aria_hidden="true")
