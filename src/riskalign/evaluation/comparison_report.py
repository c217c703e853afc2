"""A comparison of methods on the terminal, as JSON and as one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from riskalign.errors import InputError
from riskalign.evaluation import plots, wording
from riskalign.evaluation.report import page
from riskalign.evaluation.results import open_ends, plain
from riskalign.files.atomic import write_text

SCHEMA = 1
#: Metrics of the table, and what a method's training took.
SHOWN = ("reward", "unsafe_rate", "cvar_0.95", "cvar_0.99", "kl")
_SHAPES = {"final": "diamond", "merge": "square", "dial": "circle", "start": "circle"}
_COLOURS = 10


def write_comparison(content: Mapping[str, Any], results: Path, report: Path) -> None:
    """Write what `compare_cells` found, and what it is about, as JSON and as HTML."""
    text = json.dumps(open_ends(plain(content), to_json=True), indent=1, allow_nan=False)
    write_text(results, text + "\n")
    write_text(report, render_comparison(read_comparison(results)))


def read_comparison(path: str | Path) -> dict[str, Any]:
    """The content of a `compare.json`, intervals' open ends as infinities.

    Raises `InputError` for a file that is missing, not JSON or not of this schema.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `riskalign compare` writes it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or "points" not in content:
        raise InputError(f"{path}: is no comparison of schema {SCHEMA}")
    opened: dict[str, Any] = open_ends(content, to_json=False)
    return opened


def name_of(row: Mapping[str, Any]) -> str:
    """A point's name: its method, and what of it unless it is the final model."""
    if row["method"] == "start":
        return "start model"
    kind, _, w = str(row["point"]).partition("-")
    words = {"final": "", "merge": f" · weights {w}", "dial": f" · dial {w}"}
    return f"{row['method']}{words.get(kind, kind)}"


def _each(row: Mapping[str, Any], metric: str) -> str:
    values = [v[metric] for v in row["each"].values() if metric in v]
    return " · ".join(wording.amount(metric, value) for value in values)


def match_sentence(match: Mapping[str, Any], percent: str) -> tuple[str, str]:
    """State (better, worse, unclear) and sentence of one matched difference."""
    rival = name_of({"method": match["rival"], "point": match["rival_point"]})
    if match["own_point"] is None:
        return "worse", f"{match['own']} is less helpful than {rival} at every point."
    own = name_of({"method": match["own"], "point": match["own_point"]})
    tail, reward = (match["differences"][key] for key in ("cvar_0.95", "reward"))
    state = wording.state("cvar_0.95", tail)
    ratio = match["cvar_ratio"]
    times = "" if ratio is None else f", {wording.number(ratio)} times the rival's"
    apart = "intervals apart" if match["apart"] else "intervals overlap"
    return state, (
        f"{own} against {rival}: CVaR 0.95 {wording.amount('cvar_0.95', tail['value'], True)} "
        f"({percent}: {wording.span('cvar_0.95', tail, True)}){times}, {apart}; reward "
        f"{wording.amount('reward', reward['value'], True)}."
    )


def ratio_sentence(ratio: Mapping[str, Any], percent: str) -> tuple[str, str]:
    """State and sentence of one ratio at matched helpfulness (`FrontierRatio`)."""
    ends = ratio["ratio"]
    state = "better" if ends["high"] < 1 else "worse" if ends["low"] > 1 else "unclear"
    number = wording.number
    kl = (
        ""
        if None in (ratio["own_kl"], ratio["rival_kl"])
        else (f", at {number(ratio['own_kl'])} and {number(ratio['rival_kl'])} nats of KL")
    )
    undrawn = (
        ""
        if ratio["undrawn"] < 0.005
        else (f"; {ratio['undrawn']:.0%} of the draws do not reach that reward and are left out")
    )
    return state, (
        f"{ratio['own']} against {ratio['rival']} at reward {ratio['reward']:.3f}: CVaR "
        f"{ratio['level']:g} {number(ratio['own_cvar'])} to {number(ratio['rival_cvar'])}, ratio "
        f"{ends['value']:.2f} ({percent}: {ends['low']:.2f} to {ends['high']:.2f}){kl}{undrawn}."
    )


def print_comparison(content: Mapping[str, Any], console: Console) -> None:
    """Print what `read_comparison` gives: the table, and the differences at matched helpfulness."""
    percent = wording.percent_of(content["confidence"])
    table = Table(
        title=escape(str(content["title"])),
        caption=f"Second lines: {percent} intervals over prompts of all seeds.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("method", overflow="fold")
    for key in SHOWN:
        table.add_column(wording.METRIC[key].label, justify="right")
    for row in content["points"]:
        # The rows are three lines high anyway on a narrow terminal.
        name = name_of(row).replace("@", "@\n", 1).replace(" · ", "\n· ")
        mark = made_by(content, row)
        cells = [escape(name) + (f"\n[yellow]{escape(mark)}[/yellow]" if mark else "")]
        for key in SHOWN:
            ends = row["metrics"].get(key)
            cells.append(
                f"{wording.amount(key, ends['value'])}\n[dim]{wording.span(key, ends)}[/dim]"
                if ends
                else ""
            )
        table.add_row(*cells)
    console.print(table)
    # A table of its own: with all columns in one, a narrow terminal cuts the methods' names.
    spent = Table(title="Training, mean over seeds", title_justify="left")
    spent.add_column("method", overflow="fold")
    for name in ("updates", "sampled tokens", "minutes", "peak MiB"):
        spent.add_column(name, justify="right")
    for method, budget in content["budgets"].items():
        spent.add_row(escape(method), *_spent(budget))
    console.print(spent)
    for match in content["matched"]:
        console.print(f"• {match_sentence(match, percent)[1]}", markup=False, highlight=False)
    for ratio in content.get("ratios", []):
        console.print(f"• {ratio_sentence(ratio, percent)[1]}", markup=False, highlight=False)
    for note in notes(content):
        console.print(f"• {note}", style="dim", markup=False, highlight=False)


def _spent(budget: Mapping[str, float]) -> list[str]:
    return [
        f"{budget['updates']:.0f}",
        f"{budget['sampled_tokens']:,.0f}",
        f"{budget['seconds'] / 60:.1f}",
        f"{budget['peak_megabytes']:,.0f}",
    ]


def made_by(content: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Whether other code than today's made a method's cells; nothing where it did not."""
    about = content.get("other_code", {}).get(row["method"])
    if about is None or row["point"] != "final":
        return ""
    counts = ((about["other"], "other"), (about["unknown"], "unknown"))
    said = [f"{n} of {about['cells']} by {which}" for n, which in counts if n]
    return f"made {', '.join(said)} code"


def notes(content: Mapping[str, Any]) -> list[str]:
    """What a reader must know: cells that other code made, unequal budgets, few seeds."""
    found = []
    stale = content.get("other_code", {}).values()
    if n := sum(about["other"] + about["unknown"] for about in stale):
        of = len(content["budgets"]) * len(content["seeds"])
        rooms = ", ".join(dict.fromkeys(room for about in stale for room in about["rooms"]))
        unknown = sum(about["unknown"] for about in stale)
        why = [f"what changed is in {rooms}"] if rooms else []
        why += [f"of {unknown} it is not known which code"] if unknown else []
        found.append(
            f"{n} of {of} cells were made by other code than this version's ({'; '.join(why)}). "
            "They were kept as they are: riskalign compare --redo-stale makes them anew."
        )
    for name, words in (("updates", "updates"), ("sampled_tokens", "sampled tokens")):
        spent = {method: round(budget[name]) for method, budget in content["budgets"].items()}
        if len(set(spent.values())) > 1:
            listed = ", ".join(f"{method} {n:,}" for method, n in spent.items())
            found.append(f"Budgets differ in {words}: {listed}.")
    n = len(content["seeds"])
    if n < 3:
        found.append(
            f"{n} seed{'s' if n > 1 else ''}: intervals hold the noise of prompts, hardly that of "
            "training."
        )
    return found


def render_comparison(content: Mapping[str, Any]) -> str:
    """The HTML of a comparison as `read_comparison` gives it."""
    percent = wording.percent_of(content["confidence"])
    methods = list(content["budgets"])
    css = {name: f"m{i % _COLOURS + 1}" for i, name in enumerate(methods)} | {"start": "s-start"}
    rows = content["points"]
    return page(
        "comparison.html.jinja",
        r=content,
        shown=[wording.METRIC[key] for key in SHOWN],
        names=[name_of(row) for row in rows],
        marks=[made_by(content, row) for row in rows],
        css_of=css,
        percent=percent,
        each=_each,
        sentences=[match_sentence(match, percent) for match in content["matched"]],
        ratios=[ratio_sentence(ratio, percent) for ratio in content.get("ratios", [])],
        notes=notes(content),
        frontier=Markup(_frontier(rows, css)),
        settings=yaml.safe_dump(content["settings"], sort_keys=False, width=88).strip(),
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
