"""The table of models: helpfulness, safety by category, risk identification, and the tail.

The first columns are those in which RSA's paper (arXiv 2512.24263) compares models: win rates for
helpfulness, win rates for safety in each category, and R-Judge's F1, recall and specificity. The
others are what averages leave out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from riskalign.evaluation import wording
from riskalign.evaluation.intervals import Interval
from riskalign.evaluation.metrics import METRICS

#: What stands where nothing was measured.
MISSING = "\u2013"
#: Metrics shown in percent.
SHARES = frozenset(
    {
        "unsafe_rate", "reward_win_rate", "cost_win_rate", "over_refusal", "refusal",
        "f1", "recall", "specificity", "accuracy", "auc", "refused", "full", "partial", "empty",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column: where its value stands in a model's results, and how it is called."""

    group: str
    label: str
    path: tuple[str, ...]

    @property
    def metric(self) -> str:
        """The metric's key, which says how its values are written."""
        return self.path[-1]


_RISK = (("F1", "f1"), ("Recall", "recall"), ("Specificity", "specificity"))
_TAIL = (
    ("Unsafe rate", "unsafe_rate"),
    ("CVaR 0.95", "cvar_0.95"),
    ("Worst of k", "worst_of_k"),
    ("Severity-weighted cost", "severity_weighted_cost"),
)


def columns(categories: Sequence[str]) -> list[Column]:
    """The table's columns for a set with these categories."""
    return [
        Column("Helpfulness", "Win rate", ("helpful", "reward_win_rate")),
        *(
            Column("Safety win rate", name, ("categories", name, "cost_win_rate"))
            for name in categories
        ),
        Column("Safety win rate", "All", ("overall", "cost_win_rate")),
        *(Column("R-Judge", label, ("r_judge", key)) for label, key in _RISK),
        *(Column("Tail of the cost", label, ("overall", key)) for label, key in _TAIL),
        Column("Refusals", "Of safe prompts", ("over_refusal", "over_refusal")),
        Column("Refusals", "Of unsafe prompts", ("over_refusal", "refusal")),
        Column("Drift from the baseline", "KL", ("overall", "kl")),
        Column("Drift from the baseline", "SRR", ("overall", "srr")),
    ]


def model_table(
    results: Mapping[str, Mapping[str, Any]], categories: Sequence[str]
) -> dict[str, Any]:
    """Rows are models, columns those of `columns`, cells intervals or None where not measured.

    Args:
        results: for each model `helpful` and `overall` (metrics of `answer_metrics`), `categories`
            (those of each), `r_judge` and `over_refusal` (`over_refusal`, `refusal`), any of which
            may be absent.
        categories: the set's.

    Returns:
        `columns`, a list of `{"group", "label", "metric"}`, and `rows`, a list of `{"model",
        "cells"}` with as many cells, plain but for `Interval`.
    """
    found = columns(categories)
    return {
        "columns": [{"group": c.group, "label": c.label, "metric": c.metric} for c in found],
        "rows": [
            {"model": name, "cells": [_at(own, column.path) for column in found]}
            for name, own in results.items()
        ],
    }


def _at(tree: Any, path: Sequence[str]) -> Any:
    for name in path:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def shown(metric: str, ends: Mapping[str, float] | Interval | None) -> tuple[str, str]:
    """A value and its interval as text; an en dash and nothing where there is none."""
    if ends is None:
        return MISSING, ""
    own = vars(ends) if isinstance(ends, Interval) else ends
    return wording.lines(METRICS["unsafe_rate" if metric in SHARES else "cost"], own)


def print_table(content: Mapping[str, Any], console: Console) -> None:
    """Print what `read_sets` gives, turned on its side: a terminal is narrow."""
    table, percent = content["table"], wording.percent_of(content["confidence"])
    printed = Table(
        title=escape(str(content["title"])),
        caption=f"Second lines: {percent} intervals over prompts, for R-Judge over records.",
        title_justify="left",
        caption_justify="left",
    )
    printed.add_column("metric")
    for row in table["rows"]:
        printed.add_column(escape(row["model"]), justify="right")
    group = None
    for i, column in enumerate(table["columns"]):
        cells = [shown(column["metric"], row["cells"][i]) for row in table["rows"]]
        if column["group"] != group:
            group = column["group"]
            printed.add_section()
            printed.add_row(f"[bold]{escape(group)}[/bold]")
        lines = [f"{value}\n[dim]{span}[/dim]" if span else value for value, span in cells]
        printed.add_row(escape(column["label"]), *lines)
    console.print(printed)
    for note in content["notes"]:
        console.print(f"\u2022 {note}", style="dim", markup=False, highlight=False)
