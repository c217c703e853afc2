"""One self-contained HTML report made from results.json only.

The page holds no script and asks nothing of the network: its Content-Security-Policy forbids both
and allows one style sheet, named by its hash. Text from models and data is hostile: it is escaped
by the template engine, and characters that could hide or reorder text are shown by their codes.
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

from riskalign.evaluation import plots, wording
from riskalign.evaluation.results import read_results
from riskalign.files.atomic import write_text

_HIDING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


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


def render_report(results: Mapping[str, Any]) -> str:
    """The report's HTML for checked results (`read_results`)."""
    return page(
        "report.html.jinja",
        r=results,
        **_headline(results),
        **_charts(results),
        settings=yaml.safe_dump(
            results["settings"], sort_keys=False, allow_unicode=True, width=88
        ).strip()
        if results["settings"]
        else "",
    )


def page(template: str, **content: Any) -> str:
    """A template's HTML with the style sheet, its hash and the filters that every page needs."""
    environment = Environment(
        loader=PackageLoader("riskalign.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    environment.filters["moment"] = _moment
    environment.filters["duration"] = _duration
    loader = environment.loader
    assert loader is not None
    css = loader.get_source(environment, "report.css")[0]
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    html = environment.get_template(template).render(
        css=Markup(css), css_hash=digest, w=wording, **content
    )
    # A lone surrogate outside the shown texts (a prompt id, a setting) cannot be written as UTF-8.
    return html.encode("utf-8", errors="replace").decode("utf-8")


def write_report(results_path: str | Path, html_path: str | Path) -> None:
    """Read `results_path` and replace the file at `html_path` by its report in one step.

    Raises InputError for results that `read_results` refuses.
    """
    write_text(html_path, render_report(read_results(results_path)))


def _headline(results: Mapping[str, Any]) -> dict[str, Any]:
    models = results["models"]
    final = wording.final_model(results)
    differences = results["differences"].get(f"{final}_minus_start", {})
    cards = []
    for key in wording.HEADLINE:
        before, after = models.get("start", {}).get(key), models.get(final, {}).get(key)
        if final is not None and before and after:
            cards.append(
                {
                    "metric": wording.METRIC[key],
                    "before": wording.amount(key, before["value"]),
                    "after": wording.amount(key, after["value"]),
                    "ratio": wording.ratio(before["value"], after["value"]),
                    "state": wording.state(key, differences[key]) if key in differences else "",
                    "strip": Markup(plots.strip(key, before, after, "start", final)),
                }
            )
    return {
        "order": wording.model_order(models),
        "final": final,
        "names": wording.model_names(results),
        "cards": cards,
        "differences": differences,
        "headline": wording.headline(results),
        "verdicts": wording.verdicts(results),
        "cautions": wording.cautions(results),
        "percent": wording.percent_of(results["confidence"]),
    }


def _charts(results: Mapping[str, Any]) -> dict[str, Any]:
    models, order = results["models"], wording.model_order(results["models"])
    names = wording.model_names(results)
    costs = {key: results["costs"][key] for key in order if results["costs"].get(key)}
    rates = {key: m["unsafe_rate"] for key, m in models.items() if "unsafe_rate" in m}
    placed = any("reward" in m and "cvar_0.95" in m for m in models.values())
    return {
        "legend": [
            {
                "swatch": Markup(plots.swatch(key, order)),
                "name": names[key],
                "css": plots.series_class(key, order),
                "answers": len(costs.get(key, ())),
                "unsafe": sum(cost > 0 for cost in costs.get(key, ())),
            }
            for key in order
        ],
        "css_of": {key: plots.series_class(key, order) for key in order},
        "dial_swatch": Markup(plots.DIAL_SWATCH),
        "has_costs": bool(costs),
        "exceedance": Markup(plots.exceedance(costs, rates, order, names)) if costs else "",
        "frontier": Markup(plots.frontier(models, order, results["dial"], names)) if placed else "",
        "training": {
            step: [
                {"title": title, "note": note, "curves": curves, "svg": Markup(svg)}
                for title, note, curves in plots.panels_of(results["panels"].get(step, ()))
                if (svg := plots.training(log, curves))
            ]
            for step, log in results["training"].items()
            if log
        },
        "times": [
            {
                "stage": stage,
                "shown": _duration(seconds),
                "bar": Markup(plots.time_bar(seconds, max(results["seconds"].values()))),
            }
            for stage, seconds in results["seconds"].items()
        ],
        "total_time": _duration(sum(results["seconds"].values())),
    }


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
