"""What was found, for a terminal, as JSON and as one self-contained page."""

import base64
import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from riskalign.pipeline.machine import commit, versions
from riskalign.pipeline.manifest import now
from riskalign.theory.verify.claim import Finding, Setting

GROUPS = {
    "risk": "Risk measures",
    "values": "Nested values and their optima",
    "loss": "The loss finds the theory",
    "steps": "Two steps, the constraint, the drift",
    "dial": "The dial",
    "answers": "The tail of whole answers",
}


def verdict(finding: Finding) -> str:
    """One word."""
    if finding.bound == "reported":
        return "measured" if finding.passed else "FAIL"
    return "pass" if finding.passed else "FAIL"


def bound_text(finding: Finding) -> str:
    """The tolerance with its direction; empty where there is none."""
    signs = {"at most": "≤", "at least": "≥"}
    sign = signs.get(finding.bound)
    return f"{sign} {finding.tolerance:.0e}" if sign else ""


def summary(findings: Sequence[Finding], setting: Setting) -> str:
    """One line on how it went."""
    judged = [f for f in findings if f.bound != "reported"]
    failed = sum(not finding.passed for finding in findings)
    how = "all hold" if failed == 0 else f"{failed} FAIL"
    return f"{len(judged)} claims on {setting.trees} random trees: {how}"


def print_findings(findings: Sequence[Finding], setting: Setting, console: Console) -> None:
    """Print the table, a claim a line, failing cases below their claim."""
    table = Table(title=summary(findings, setting), title_justify="left", show_lines=False)
    table.add_column("claim")
    table.add_column("figure", justify="right")
    table.add_column("bound", justify="right")
    table.add_column("cases", justify="right")
    table.add_column("")
    for group, title in GROUPS.items():
        own = [finding for finding in findings if finding.group == group]
        if own:
            table.add_row(Text(title, style="bold"))
        for finding in own:
            style = "green" if finding.passed else "bold red"
            table.add_row(
                Text(f"  {finding.statement}"),
                f"{finding.figure:.1e}",
                bound_text(finding),
                str(len(finding.by_case)),
                Text(verdict(finding), style="dim" if finding.bound == "reported" else style),
            )
    console.print(table)
    for finding in findings:
        if not finding.passed:
            cases = ", ".join(f"{name} {value:.1e}" for name, value in finding.by_case.items())
            console.print(f"{finding.key}: {cases}", markup=False, highlight=False)


def to_json(findings: Sequence[Finding], setting: Setting) -> dict[str, Any]:
    """Everything as plain data; a figure that is not finite is null."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "schema": 1,
        "created": now(),
        "setting": setting._asdict(),
        "versions": versions(),
        "commit": commit(),
        "passed": all(finding.passed for finding in findings),
        "findings": [
            dataclasses.asdict(finding)
            | {
                "figure": finite(finding.figure),
                "by_case": {name: finite(value) for name, value in finding.by_case.items()},
            }
            for finding in findings
        ],
    }


def render(findings: Sequence[Finding], setting: Setting) -> str:
    """One HTML page that asks nothing of the network."""
    environment = Environment(
        loader=PackageLoader("riskalign.theory.verify", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    loader = environment.loader
    assert loader is not None
    css = loader.get_source(environment, "verify.css")[0]
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return environment.get_template("verify.html.jinja").render(
        css=Markup(css),
        css_hash=digest,
        summary=summary(findings, setting),
        passed=all(finding.passed for finding in findings),
        groups=[
            (title, [finding for finding in findings if finding.group == group])
            for group, title in GROUPS.items()
        ],
        verdict=verdict,
        bound_text=bound_text,
        setting=setting,
        versions=versions(),
        commit=commit(),
        created=now(),
    )
