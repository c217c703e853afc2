"""`evaluate.json` of models on evaluation sets, its table, and one self-contained HTML page.

The table's first columns are those in which RSA's paper (arXiv 2512.24263) compares models: win
rates for helpfulness, win rates for safety in each category, and R-Judge's F1, recall and
specificity. The others are what averages leave out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from riskalign.errors import InputError
from riskalign.evaluation import METRICS, Interval, wording
from riskalign.evaluation.page import page, settings_text
from riskalign.evaluation.results import read_content, write_content
from riskalign.evaluation.sets.measures import CATEGORY_METRICS
from riskalign.files.atomic import write_text
from riskalign.terminal import above, escape, print_list, table

_FIELDS = ("title", "confidence", "models", "table", "notes", "sets", "settings", "reproduce")
#: What stands where nothing was measured.
MISSING = "\u2013"
_LABELS = {key: metric.label for key, metric in METRICS.items()} | {
    "severity_weighted_cost": "Severity-weighted cost",
    "reward_win_rate": "Win rate by reward",
    "cost_win_rate": "Win rate by cost",
}
_REFUSALS = {"refused": "Refused", "full": "Fully", "partial": "In part", "empty": "Empty"}
_RISKS = {"f1": "F1", "recall": "Recall", "specificity": "Specificity"}
_MORE_RISKS = {"accuracy": "Accuracy", "auc": "AUC"}
_TAIL = ("unsafe_rate", "cvar_0.95", "worst_of_k", "severity_weighted_cost")
#: Metrics shown in percent.
SHARES = {"unsafe_rate", "reward_win_rate", "cost_win_rate", "over_refusal", "refusal"}
SHARES |= {*_REFUSALS, *_RISKS, *_MORE_RISKS}


class Column(NamedTuple):
    """A column: how it is called, its metric, and where that stands in a model's results."""

    group: str
    label: str
    metric: str
    path: tuple[str, ...]


def columns(categories: Iterable[str]) -> list[Column]:
    """The table's columns for a set with these categories."""
    cost, drift, risk = "cost_win_rate", "Drift from the baseline", ("r_judge", "overall")
    return [
        Column("Helpfulness", "Win rate", "reward_win_rate", ("helpful", "reward_win_rate")),
        *(
            Column("Safety win rate", name, cost, ("categories", name, "metrics", cost))
            for name in categories
        ),
        Column("Safety win rate", "All", cost, ("overall", cost)),
        *(Column("R-Judge", name, key, (*risk, key)) for key, name in _RISKS.items()),
        *(Column("Tail of the cost", _LABELS[key], key, ("overall", key)) for key in _TAIL),
        *(
            Column("Refusals", f"Of {side} prompts", key, ("over_refusal", side, "refused"))
            for side, key in (("safe", "over_refusal"), ("unsafe", "refusal"))
        ),
        *(Column(drift, key.upper(), key, ("overall", key)) for key in ("kl", "srr")),
    ]


def model_table(
    results: Mapping[str, Mapping[str, Any]], categories: Iterable[str]
) -> dict[str, Any]:
    """Rows are models, columns those of `columns`, cells intervals or None where not measured.

    Args:
        results: for each model `helpful` and `overall` (metrics of `answer_metrics`), `categories`
            (`category_rows`), `r_judge` (`identify_risks`) and `over_refusal` (`over_refusal`), any
            of which may be absent.
        categories: the set's.

    Returns:
        `columns`, a list of `{"group", "label", "metric"}`, and `rows`, a list of `{"model",
        "cells"}` with as many cells, plain but for `Interval`.
    """
    rows, placed = [], columns(categories)
    for name, own in results.items():
        tree = {**own, "categories": {row.category: row for row in own.get("categories", ())}}
        rows.append({"model": name, "cells": [_at(tree, column.path) for column in placed]})
    heads = [{"group": c.group, "label": c.label, "metric": c.metric} for c in placed]
    return {"columns": heads, "rows": rows}


def _at(tree: Any, path: Sequence[str]) -> Any:
    for name in path:
        tree = tree.get(name) if isinstance(tree, Mapping) else getattr(tree, name, None)
    return tree


def shown(metric: str, ends: Mapping[str, float] | Interval | None) -> tuple[str, str]:
    """A value and its interval as text; an en dash and nothing where there is none."""
    if ends is None:
        return MISSING, ""
    own = vars(ends) if isinstance(ends, Interval) else ends
    return wording.lines(METRICS["unsafe_rate" if metric in SHARES else "cost"], own)


def print_table(content: Mapping[str, Any], console: Console) -> None:
    """Print what `read_sets` gives, turned on its side: a terminal is narrow."""
    models, percent = content["table"]["rows"], wording.percent_of(content["confidence"])
    rows: list[Sequence[str | Text] | None] = []
    numbered = enumerate(content["table"]["columns"])
    for group, same in itertools.groupby(numbered, key=lambda column: str(column[1]["group"])):
        rows += [None, [Text.from_markup(f"[bold]{escape(group)}[/bold]")]]
        for i, column in same:
            cells = (above(*shown(column["metric"], row["cells"][i])) for row in models)
            rows.append([column["label"], *cells])
    printed = table(
        ["metric", *(row["model"] for row in models)],
        rows,
        title=str(content["title"]),
        caption=f"Second lines: {percent} intervals over prompts, for R-Judge over records.",
    )
    console.print(printed)
    print_list(content["notes"], console)


def write_sets(content: Mapping[str, Any], results: Path, report: Path) -> None:
    """Write an evaluation (docs/evaluation_sets.md) as JSON and as HTML."""
    write_content(results, content)
    write_text(report, render_sets(read_sets(results)))


def read_sets(path: str | Path) -> dict[str, Any]:
    """The content of an `evaluate.json`, intervals' open ends as infinities.

    Raises:
        InputError: a file that is missing, not JSON or not of this schema.
    """
    content = read_content(path, "`riskalign evaluate`", "evaluation")
    missing = [field for field in _FIELDS if field not in content]
    if missing:
        raise InputError(f"{path}: field {missing[0]!r} is missing. Make the file again.")
    return content


def render_sets(content: Mapping[str, Any]) -> str:
    """The HTML of what `read_sets` gives."""
    heads = [column["group"] for column in content["table"]["columns"]]
    return page(
        "sets.html.jinja",
        r=content,
        groups=[(group, len(list(same))) for group, same in itertools.groupby(heads)],
        shown=shown,
        metrics=[(key, _LABELS[key]) for key in CATEGORY_METRICS],
        refusals=list(_REFUSALS.items()),
        risks=list((_RISKS | _MORE_RISKS).items()),
        percent=wording.percent_of(content["confidence"]),
        settings=settings_text(content["settings"]),
    )
