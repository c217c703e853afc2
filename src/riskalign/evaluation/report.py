"""The results of a job as one self-contained HTML page, and as a table on the terminal.

Both are made from results.json only. The page holds no script and asks nothing of the network: its
Content-Security-Policy forbids both and allows one style sheet, named by its hash. Text from models
and data is hostile: it is escaped by the template engine, and characters that could hide or reorder
text are shown by their codes.
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from rich.console import Console
from rich.table import Table
from rich.text import Text

from riskalign.evaluation import plots, wording
from riskalign.evaluation.metrics import METRICS, Metric
from riskalign.evaluation.results import read_results
from riskalign.files.atomic import write_text
from riskalign.terminal import escape as escape_markup

_HIDING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
#: The metrics on the terminal, with those of a user's own.
_SHOWN = ("reward", "unsafe_rate", "cost", "var_0.95", "cvar_0.95", "cvar_0.99", "worst_of_k", "kl")
_STYLES = {"better": "green", "worse": "red", "unclear": "dim"}
_SIGNS = {"better": "✓", "worse": "✕", "unclear": "–"}


def visible(text: str) -> Markup:
    """Escaped text in which control, bidirectional and zero-width characters show as codes.

    Newlines and tabs stay; a carriage return that belongs to a newline is dropped.
    """
    parts = []
    for character in text.replace("\r\n", "\n"):
        if character in "\n\t" or unicodedata.category(character) not in _HIDING:
            parts.append(escape(character))
        else:
            code = f"U+{ord(character):04X}"
            name = unicodedata.name(character, "control character")
            parts.append(Markup('<span class="ctl" title="{}">{}</span>').format(name, code))
    return Markup("").join(parts)


def page(
    template: str, *, room: str = "riskalign.evaluation", style: str = "report.css", **content: Any
) -> str:
    """A template's HTML with the style sheet, its hash and the filters that every page needs.

    Template and style sheet lie in the folder `templates` of a room.
    """
    environment = Environment(
        loader=PackageLoader(room, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "moment": _moment, "duration": _duration}
    assert environment.loader is not None
    css = environment.loader.get_source(environment, style)[0]
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    html = environment.get_template(template).render(
        css=Markup(css), css_hash=digest, w=wording, **content
    )
    # A lone surrogate outside the shown texts (a prompt id, a setting) cannot be written as UTF-8.
    return html.encode("utf-8", errors="replace").decode("utf-8")


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings as YAML, for a page; empty where there are none."""
    shown = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, width=88)
    return shown.strip() if settings else ""


def write_report(results_path: str | Path, html_path: str | Path) -> None:
    """Read `results_path` and replace the file at `html_path` by its report in one step.

    Raises InputError for results that `read_results` refuses.
    """
    write_text(html_path, render_report(read_results(results_path)))


def render_report(results: Mapping[str, Any]) -> str:
    """The report's HTML for checked results (`read_results`)."""
    models, costs, seconds = results["models"], results["costs"], results["seconds"]
    order, names = wording.model_order(models), wording.model_names(results)
    metrics = wording.metrics_of(results)
    groups: dict[str, list[Metric]] = {}
    for metric in metrics.values():
        groups.setdefault(metric.group, []).append(metric)
    legend = [
        {
            "swatch": Markup(plots.swatch(key, order)),
            "name": names[key],
            "css": plots.series_class(key, order),
            "answers": len(costs.get(key, ())),
            "unsafe": sum(cost > 0 for cost in costs.get(key, ())),
        }
        for key in order
    ]
    training = {
        step: [
            {"title": title, "note": note, "curves": curves, "svg": Markup(svg)}
            for title, note, curves in plots.panels_of(log, results["panels"].get(step, ()))
            if (svg := plots.training(log, curves))
        ]
        for step, log in results["training"].items()
        if log
    }
    times = [
        {
            "stage": stage,
            "shown": _duration(spent),
            "bar": Markup(plots.time_bar(spent, max(seconds.values()))),
        }
        for stage, spent in seconds.items()
    ]
    return page(
        "report.html.jinja",
        r=results,
        order=order,
        names=names,
        metrics=metrics,
        groups=groups,
        final=wording.final_model(results),
        cards=_cards(results),
        differences=wording.changes(results),
        headline=wording.headline(results),
        verdicts=wording.verdicts(results),
        cautions=wording.cautions(results),
        percent=wording.percent_of(results["confidence"]),
        legend=legend,
        css_of={key: plots.series_class(key, order) for key in order},
        dial_swatch=Markup(plots.DIAL_SWATCH),
        exceedance=Markup(plots.exceedance(results)),
        frontier=Markup(plots.frontier(results)),
        training=training,
        times=times,
        total_time=_duration(sum(seconds.values())),
        settings=settings_text(results["settings"]),
    )


def _cards(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The headline metrics of the start and the final model, where both were measured."""
    models, differences = results["models"], wording.changes(results)
    final = wording.final_model(results)
    cards = []
    for key in wording.HEADLINE:
        before, after = models.get("start", {}).get(key), models.get(final, {}).get(key)
        if final is not None and before and after:
            metric = METRICS[key]
            cards.append(
                {
                    "metric": metric,
                    "before": wording.amount(metric, before["value"]),
                    "after": wording.amount(metric, after["value"]),
                    "ratio": wording.ratio(before["value"], after["value"]),
                    "state": wording.state(metric, differences[key]) if key in differences else "",
                    "strip": Markup(plots.strip(metric, before, after, "start", final)),
                }
            )
    return cards


def _moment(created: str) -> Markup:
    """The time of creation as people write it, or as recorded where it is not ISO 8601."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return visible(created)
    zone = moment.tzname() or ""
    return visible(f"{moment.day} {moment:%B %Y, %H:%M} {zone}".strip())


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """Print the headline metrics of checked results (`read_results`) with their intervals."""
    differences = wording.changes(results)
    percent = wording.percent_of(results["confidence"])
    order, names = wording.model_order(results["models"]), wording.model_names(results)
    table = Table(
        title=escape_markup(f"{results['title']}: {wording.headline(results)}"),
        caption=f"Second lines: {percent} intervals, bootstrapped over prompts.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("metric")
    headings = [escape_markup(names[key]) for key in order]
    for heading in headings + (["change from start"] if differences else []):
        table.add_column(heading, justify="right")
    for key, metric in wording.metrics_of(results).items():
        if key in METRICS and key not in _SHOWN:
            continue
        cells: list[str | Text] = [escape_markup(metric.label)]
        for model in order:
            ends = results["models"][model].get(key)
            cells.append("\n".join(wording.lines(metric, ends)) if ends else "")
        if differences:
            cells.append(_change(metric, differences[key]) if key in differences else "")
        table.add_row(*cells)
    console.print(table)
    for note in (*wording.cautions(results), *results.get("notes", ())):
        console.print(f"• {note}", style="dim", markup=False, highlight=False)


def _change(metric: Metric, difference: wording.Ends) -> Text:
    state = wording.state(metric, difference)
    value, ends = wording.lines(metric, difference, signed=True)
    sign = f" {_SIGNS[state]}" if metric.better else ""
    return Text(f"{value}{sign}\n{ends}", style=_STYLES[state], justify="right")
