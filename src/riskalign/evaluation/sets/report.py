"""`evaluate.json` of models on evaluation sets, and one self-contained HTML page from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from riskalign.errors import InputError
from riskalign.evaluation import wording
from riskalign.evaluation.metrics import METRICS
from riskalign.evaluation.report import page
from riskalign.evaluation.results import open_ends, plain
from riskalign.evaluation.sets.categories import CATEGORY_METRICS
from riskalign.evaluation.sets.table import shown
from riskalign.files.atomic import write_text

SCHEMA = 1
_FIELDS = ("title", "confidence", "models", "table", "notes", "sets", "settings", "reproduce")
_LABELS = {
    "severity_weighted_cost": "Severity-weighted cost",
    "reward_win_rate": "Win rate by reward",
    "cost_win_rate": "Win rate by cost",
}
_REFUSALS = (("refused", "Refused"), ("full", "Fully"), ("partial", "In part"), ("empty", "Empty"))
_RISKS = (
    ("f1", "F1"), ("recall", "Recall"), ("specificity", "Specificity"),
    ("accuracy", "Accuracy"), ("auc", "AUC"),
)  # fmt: skip


def write_sets(content: Mapping[str, Any], results: Path, report: Path) -> None:
    """Write an evaluation (docs/evaluation_sets.md) as JSON and as HTML."""
    text = json.dumps(open_ends(plain(content), to_json=True), indent=1, allow_nan=False)
    write_text(results, text + "\n")
    write_text(report, render_sets(read_sets(results)))


def read_sets(path: str | Path) -> dict[str, Any]:
    """The content of an `evaluate.json`, intervals' open ends as infinities.

    Raises:
        InputError: a file that is missing, not JSON or not of this schema.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `riskalign evaluate` writes it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InputError(f"{path}: is no evaluation of schema {SCHEMA}")
    missing = [field for field in _FIELDS if field not in content]
    if missing:
        raise InputError(f"{path}: field {missing[0]!r} is missing. Make the file again.")
    opened: dict[str, Any] = open_ends(content, to_json=False)
    return opened


def render_sets(content: Mapping[str, Any]) -> str:
    """The HTML of what `read_sets` gives."""
    return page(
        "sets.html.jinja",
        r=content,
        groups=_groups(content["table"]["columns"]),
        shown=shown,
        metrics=[(key, _label(key)) for key in CATEGORY_METRICS],
        refusals=_REFUSALS,
        risks=_RISKS,
        percent=wording.percent_of(content["confidence"]),
        settings=yaml.safe_dump(content["settings"], sort_keys=False, width=88).strip(),
    )


def _label(key: str) -> str:
    return _LABELS[key] if key in _LABELS else METRICS[key].label


def _groups(columns: list[Mapping[str, str]]) -> list[tuple[str, int]]:
    """Each group of neighbouring columns with their number."""
    found: list[tuple[str, int]] = []
    for column in columns:
        if found and found[-1][0] == column["group"]:
            found[-1] = (column["group"], found[-1][1] + 1)
        else:
            found.append((column["group"], 1))
    return found
