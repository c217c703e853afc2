"""The results of a job as one self-contained HTML page, and as a table on the terminal.

Both are made from results.json only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import Console
from rich.text import Text

from riskalign.evaluation import plots, wording
from riskalign.evaluation.metrics import METRICS, Metric
from riskalign.evaluation.page import duration, page, settings_text
from riskalign.evaluation.results import read_results
from riskalign.files.atomic import write_text
from riskalign.terminal import print_list, table

#: The metrics on the terminal, with those of a user's own.
_SHOWN = ("reward", "unsafe_rate", "cost", "var_0.95", "cvar_0.95", "cvar_0.99", "worst_of_k", "kl")
_STYLES = {"better": "green", "worse": "red", "unclear": "dim"}
_SIGNS = {"better": "✓", "worse": "✕", "unclear": "–"}


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
            "shown": duration(spent),
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
        certificate=[Markup(svg) for svg in plots.certificate(results.get("certificate"))],
        exceedance=Markup(plots.exceedance(results)),
        frontier=Markup(plots.frontier(results)),
        training=training,
        times=times,
        total_time=duration(sum(seconds.values())),
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


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """Print the headline metrics of checked results (`read_results`) with their intervals."""
    differences = wording.changes(results)
    order, names = wording.model_order(results["models"]), wording.model_names(results)
    rows = []
    for key, metric in wording.metrics_of(results).items():
        if key in METRICS and key not in _SHOWN:
            continue
        row: list[str | Text] = [metric.label]
        for model in order:
            ends = results["models"][model].get(key)
            row.append("\n".join(wording.lines(metric, ends)) if ends else "")
        if differences:
            row.append(_change(metric, differences[key]) if key in differences else "")
        rows.append(row)
    percent = wording.percent_of(results["confidence"])
    printed = table(
        ["metric", *map(names.get, order), *(["change from start"] if differences else [])],
        rows,
        title=f"{results['title']}: {wording.headline(results)}",
        caption=f"Second lines: {percent} intervals, bootstrapped over prompts.",
    )
    console.print(printed)
    print_list((*wording.cautions(results), *results.get("notes", ())), console)


def _change(metric: Metric, difference: wording.Ends) -> Text:
    state = wording.state(metric, difference)
    value, ends = wording.lines(metric, difference, signed=True)
    sign = f" {_SIGNS[state]}" if metric.better else ""
    return Text(f"{value}{sign}\n{ends}", style=_STYLES[state])
