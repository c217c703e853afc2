"""The headline of a results.json on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from riskalign.evaluation import wording

_SHOWN = ("reward", "unsafe_rate", "cost", "var_0.95", "cvar_0.95", "cvar_0.99", "worst_of_k", "kl")
_STYLES = {"better": "green", "worse": "red", "unclear": "dim"}
_SIGNS = {"better": "✓", "worse": "✕", "unclear": "–"}


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """Print the headline metrics of checked results (`read_results`) with their intervals."""
    final = wording.final_model(results)
    differences = results["differences"].get(f"{final}_minus_start", {})
    percent = wording.percent_of(results["confidence"])
    order, names = wording.model_order(results["models"]), wording.model_names(results)
    table = Table(
        title=escape(f"{results['title']}: {wording.headline(results)}"),
        caption=f"Second lines: {percent} intervals, bootstrapped over prompts.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("metric")
    for key in order:
        table.add_column(escape(names[key]), justify="right")
    if differences:
        table.add_column("change from start", justify="right")
    for key in _SHOWN:
        cells: list[str | Text] = [wording.METRIC[key].label]
        for model in order:
            ends = results["models"][model].get(key)
            shown = (
                f"{wording.amount(key, ends['value'])}\n{wording.span(key, ends)}" if ends else ""
            )
            cells.append(shown)
        if differences:
            cells.append(_change(key, differences[key]) if key in differences else "")
        table.add_row(*cells)
    console.print(table)
    for note in (*wording.cautions(results), *results.get("notes", ())):
        console.print(f"• {note}", style="dim", markup=False, highlight=False)


def _change(key: str, difference: wording.Ends) -> Text:
    state = wording.state(key, difference)
    ends = wording.span(key, difference, signed=True)
    sign = f" {_SIGNS[state]}" if wording.METRIC[key].better else ""
    value = wording.amount(key, difference["value"], signed=True)
    return Text(f"{value}{sign}\n{ends}", style=_STYLES[state], justify="right")
