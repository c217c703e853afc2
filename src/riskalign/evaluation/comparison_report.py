"""A comparison of methods on the terminal, as JSON and as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import Console

from riskalign.evaluation import plots, wording
from riskalign.evaluation.metrics import METRICS, Metric
from riskalign.evaluation.page import page, settings_text
from riskalign.evaluation.results import read_content, write_content
from riskalign.files.atomic import write_text
from riskalign.terminal import above, print_list, table

#: Metrics of the table, with those of a user's own.
SHOWN = ("reward", "unsafe_rate", "cvar_0.95", "cvar_0.99", "kl")
_SHAPES = {"final": "diamond", "merge": "square", "dial": "circle", "start": "circle"}
_COLOURS = 10


def write_comparison(content: Mapping[str, Any], results: Path, report: Path) -> None:
    """Write what `compare_cells` found, and what it is about, as JSON and as HTML."""
    write_content(results, content)
    write_text(report, render_comparison(read_comparison(results)))


def read_comparison(path: str | Path) -> dict[str, Any]:
    """The content of a `compare.json`, intervals' open ends as infinities.

    Raises `InputError` for a file that is missing, not JSON or not of this schema.
    """
    return read_content(path, "`riskalign compare`", "comparison", ["points"])


def _shown(content: Mapping[str, Any]) -> list[Metric]:
    every = wording.metrics_of(content)
    return [metric for key, metric in every.items() if key in SHOWN or key not in METRICS]


def name_of(row: Mapping[str, Any]) -> str:
    """A point's name: its method, and what of it unless it is the final model."""
    if row["method"] == "start":
        return "start model"
    kind, _, w = str(row["point"]).partition("-")
    words = {"final": "", "merge": f" · weights {w}", "dial": f" · dial {w}"}
    return f"{row['method']}{words.get(kind, kind)}"


def _each(row: Mapping[str, Any], metric: Metric) -> str:
    values = [v[metric.key] for v in row["each"].values() if metric.key in v]
    return " · ".join(wording.amount(metric, value) for value in values)


def match_sentence(match: Mapping[str, Any], percent: str) -> tuple[str, str]:
    """State (better, worse, unclear) and sentence of one matched difference."""
    rival = name_of({"method": match["rival"], "point": match["rival_point"]})
    if match["own_point"] is None:
        return "worse", f"{match['own']} is less helpful than {rival} at every point."
    own = name_of({"method": match["own"], "point": match["own_point"]})
    tail, reward = (
        wording.lines(METRICS[key], match["differences"][key], signed=True)
        for key in ("cvar_0.95", "reward")
    )
    ratio = match["cvar_ratio"]
    times = "" if ratio is None else f", {wording.number(ratio)} times the rival's"
    apart = "intervals apart" if match["apart"] else "intervals overlap"
    return wording.state(METRICS["cvar_0.95"], match["differences"]["cvar_0.95"]), (
        f"{own} against {rival}: CVaR 0.95 {tail[0]} ({percent}: {tail[1]}){times}, {apart}; "
        f"reward {reward[0]}."
    )


def ratio_sentence(ratio: Mapping[str, Any], percent: str) -> tuple[str, str]:
    """State and sentence of one ratio at matched helpfulness (`FrontierRatio`)."""
    ends, number = ratio["ratio"], wording.number
    state = "better" if ends["high"] < 1 else "worse" if ends["low"] > 1 else "unclear"
    sentence = (
        f"{ratio['own']} against {ratio['rival']} at reward {ratio['reward']:.3f}: CVaR "
        f"{ratio['level']:g} {number(ratio['own_cvar'])} to {number(ratio['rival_cvar'])}, ratio "
        f"{ends['value']:.2f} ({percent}: {ends['low']:.2f} to {ends['high']:.2f})"
    )
    if None not in (ratio["own_kl"], ratio["rival_kl"]):
        sentence += f", at {number(ratio['own_kl'])} and {number(ratio['rival_kl'])} nats of KL"
    if ratio["undrawn"] >= 0.005:
        share = f"{ratio['undrawn']:.0%}"
        sentence += f"; {share} of the draws do not reach that reward and are left out"
    return state, f"{sentence}."


def _sentences(content: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    percent = wording.percent_of(content["confidence"])
    return (
        [match_sentence(match, percent) for match in content["matched"]],
        [ratio_sentence(ratio, percent) for ratio in content.get("ratios", ())],
    )


def print_comparison(content: Mapping[str, Any], console: Console) -> None:
    """Print what `read_comparison` gives: the table, and the differences at matched helpfulness."""
    percent, shown = wording.percent_of(content["confidence"]), _shown(content)
    rows = []
    for point in content["points"]:
        # The rows are three lines high anyway on a narrow terminal.
        name = name_of(point).replace("@", "@\n", 1).replace(" · ", "\n· ")
        found = [(metric, point["metrics"].get(metric.key)) for metric in shown]
        cells = [above(*wording.lines(metric, ends)) if ends else "" for metric, ends in found]
        rows.append([above(name, made_by(content, point), "yellow"), *cells])
    measured = table(
        ["method", *(metric.label for metric in shown)],
        rows,
        title=str(content["title"]),
        caption=f"Second lines: {percent} intervals over prompts of all seeds.",
    )
    # A table of its own: with all columns in one, a narrow terminal cuts the methods' names.
    spent = table(
        ["method", "updates", "sampled tokens", "minutes", "peak MiB"],
        (
            [
                method,
                f"{budget['updates']:.0f}",
                f"{budget['sampled_tokens']:,.0f}",
                f"{budget['seconds'] / 60:.1f}",
                f"{budget['peak_megabytes']:,.0f}",
            ]
            for method, budget in content["budgets"].items()
        ),
        title="Training, mean over seeds",
    )
    for printed in (measured, spent):
        printed.columns[0].overflow = "fold"
        console.print(printed)
    for listed in _sentences(content):
        print_list((sentence for _, sentence in listed), console, style=None)
    print_list(notes(content), console)


def made_by(content: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Whether other code than today's made a method's cells; nothing where it did not."""
    about = content.get("other_code", {}).get(row["method"])
    if about is None or row["point"] != "final":
        return ""
    counts = [
        f"{about[by]} of {about['cells']} by {by}" for by in ("other", "unknown") if about[by]
    ]
    return f"made {', '.join(counts)} code"


def notes(content: Mapping[str, Any]) -> list[str]:
    """What a reader must know: cells that other code made, unequal budgets, few seeds."""
    said = []
    stale = content.get("other_code", {}).values()
    unknown = sum(about["unknown"] for about in stale)
    if n := unknown + sum(about["other"] for about in stale):
        of = len(content["budgets"]) * len(content["seeds"])
        rooms = ", ".join(dict.fromkeys(room for about in stale for room in about["rooms"]))
        why = [f"what changed is in {rooms}"] if rooms else []
        why += [f"of {unknown} it is not known which code"] if unknown else []
        said.append(
            f"{n} of {of} cells were made by other code than this version's ({'; '.join(why)}). "
            "They were kept as they are: riskalign compare --redo-stale makes them anew."
        )
    for name in ("updates", "sampled_tokens"):
        spent = {method: round(budget[name]) for method, budget in content["budgets"].items()}
        if len(set(spent.values())) > 1:
            listed = ", ".join(f"{method} {n:,}" for method, n in spent.items())
            said.append(f"Budgets differ in {name.replace('_', ' ')}: {listed}.")
    n = len(content["seeds"])
    if n < 3:
        said.append(
            f"{n} seed{'s' if n > 1 else ''}: intervals hold the noise of prompts, hardly that of "
            "training."
        )
    return said


def render_comparison(content: Mapping[str, Any]) -> str:
    """The HTML of a comparison as `read_comparison` gives it."""
    css = {name: f"m{i % _COLOURS + 1}" for i, name in enumerate(content["budgets"])}
    css["start"] = "s-start"
    rows = content["points"]
    sentences, ratios = _sentences(content)
    return page(
        "comparison.html.jinja",
        r=content,
        shown=_shown(content),
        names=[name_of(row) for row in rows],
        marks=[made_by(content, row) for row in rows],
        css_of=css,
        percent=wording.percent_of(content["confidence"]),
        each=_each,
        sentences=sentences,
        ratios=ratios,
        notes=notes(content),
        frontier=Markup(_frontier(rows, css)),
        settings=settings_text(content["settings"]),
    )


def _frontier(rows: Sequence[Mapping[str, Any]], css: Mapping[str, str]) -> str:
    points = [
        plots.Point(
            row["method"] if row["point"] in ("final", "start") else "",
            css[row["method"]],
            _SHAPES[row["point"].partition("-")[0]],
            row["metrics"]["cvar_0.95"],
            row["metrics"]["reward"],
        )
        for row in rows
    ]
    return plots.scatter(
        points, list(_lines(rows, css)), title="Mean reward against CVaR 0.95 of every method"
    )


def _lines(
    rows: Sequence[Mapping[str, Any]], css: Mapping[str, str]
) -> Iterator[tuple[str, list[int]]]:
    """A method's merges, and its dial, in the order of their weights; the final model is at 1."""
    for method in dict.fromkeys(row["method"] for row in rows):
        for kind in ("merge", "dial"):
            placed = []
            for i, row in enumerate(rows):
                name, _, w = str(row["point"]).partition("-")
                if row["method"] == method and name in (kind, "final"):
                    placed.append((float(w or 1), i))
            yield f"{css[method]} thinner", [i for _, i in sorted(placed)]
