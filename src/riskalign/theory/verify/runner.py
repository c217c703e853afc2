"""Checks the claims, some at a time; shows what was found in a terminal, as JSON and as a page."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from riskalign.errors import InputError
from riskalign.evaluation.page import page
from riskalign.pipeline.ledger import now
from riskalign.pipeline.machine import commit, versions
from riskalign.terminal import table
from riskalign.theory.verify import answer_claims, loss_claims, risk_claims, tree_claims
from riskalign.theory.verify.claim import FIGURES, GROUPS, WRITTEN, Claim, Finding, Setting

# Imported for the claims that they add.
_ROOMS = (risk_claims, tree_claims, loss_claims, answer_claims)
CLAIMS = tuple(sorted(WRITTEN, key=lambda claim: list(GROUPS).index(claim.group)))

Tell = Callable[[int, str], None]  # how many claims are done, and which is the last


def check(claim: Claim, setting: Setting) -> Finding:
    """Check one claim; a figure that is not a number passes no bound."""
    began = time.perf_counter()
    by_case = claim.check(setting)
    figures = torch.tensor(list(by_case.values()), dtype=torch.float64)
    figure = FIGURES["at least" if claim.bound == "at least" else "at most"](figures)
    passed = {
        "at most": figure <= claim.tolerance,
        "at least": figure >= claim.tolerance,
        "reported": math.isfinite(figure),
    }
    return Finding(claim, figure, by_case, passed[claim.bound], time.perf_counter() - began)


def run(
    setting: Setting,
    claims: Sequence[Claim] = CLAIMS,
    tell: Tell | None = None,
    processes: int = 1,
) -> list[Finding]:
    """Check all claims, `processes` at a time; findings are in the claims' order.

    Raises `InputError` for fewer than four trees.
    """
    if setting.trees < 4:
        raise InputError(f"trees: {setting.trees} is fewer than 4, one of each family. Give 50.")
    findings: list[Finding] = []
    threads = torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        each: Iterable[Finding]
        # One thread a process: the trees' tensors are small, a second thread only costs.
        if processes == 1:
            stack.callback(torch.set_num_threads, threads)
            torch.set_num_threads(1)
            each = map(check, claims, repeat(setting))
        else:
            # Fresh processes: a copy of one in which torch has threads can hang.
            pool = ProcessPoolExecutor(
                processes, get_context("spawn"), torch.set_num_threads, initargs=(1,)
            )
            each = stack.enter_context(pool).map(check, claims, repeat(setting))
        for finding in each:
            findings.append(finding)
            if tell:
                tell(len(findings), finding.claim.statement)
    return findings


def verdict(finding: Finding) -> str:
    """One word."""
    if not finding.passed:
        return "FAIL"
    return "measured" if finding.claim.bound == "reported" else "pass"


def bound_text(claim: Claim) -> str:
    """The tolerance with its direction; empty where there is none."""
    sign = {"at most": "≤", "at least": "≥"}.get(claim.bound)
    return f"{sign} {claim.tolerance:.0e}" if sign else ""


def summary(findings: Sequence[Finding], setting: Setting) -> str:
    """One line on how it went."""
    judged = sum(finding.claim.bound != "reported" for finding in findings)
    failed = sum(not finding.passed for finding in findings)
    how = "all hold" if failed == 0 else f"{failed} FAIL"
    return f"{judged} claims on {setting.trees} random trees: {how}"


def _by_group(findings: Sequence[Finding]) -> list[tuple[str, list[Finding]]]:
    return [
        (title, [finding for finding in findings if finding.claim.group == group])
        for group, title in GROUPS.items()
    ]


def print_findings(findings: Sequence[Finding], setting: Setting, console: Console) -> None:
    """Print the table, a claim a line, failing cases below their claim."""
    styles = {"pass": "green", "measured": "dim", "FAIL": "bold red"}
    rows: list[list[str | Text]] = []
    for title, of_group in _by_group(findings):
        rows += [[Text(title, style="bold")]] if of_group else []
        for finding in of_group:
            word = verdict(finding)
            cells = f"{finding.figure:.1e}", bound_text(finding.claim), str(len(finding.by_case))
            statement = f"  {finding.claim.statement}"
            rows.append([statement, *cells, Text(word, styles[word], justify="left")])
    names = "claim", "figure", "bound", "cases", ""
    console.print(table(names, rows, title=summary(findings, setting)))
    for finding in findings:
        if not finding.passed:
            cases = ", ".join(f"{name} {value:.1e}" for name, value in finding.by_case.items())
            console.print(f"{finding.claim.key}: {cases}", markup=False, highlight=False)


def to_json(findings: Sequence[Finding], setting: Setting) -> dict[str, Any]:
    """Everything as plain data; a figure that is not finite is null."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    about = ("key", "group", "statement", "bound", "tolerance")
    return {
        "schema": 1,
        "created": now(),
        "setting": setting._asdict(),
        "versions": versions(),
        "commit": commit(),
        "passed": all(finding.passed for finding in findings),
        "findings": [
            {
                **{name: getattr(finding.claim, name) for name in about},
                "figure": finite(finding.figure),
                "by_case": {name: finite(value) for name, value in finding.by_case.items()},
                "passed": finding.passed,
                "seconds": finding.seconds,
            }
            for finding in findings
        ],
    }


def render(findings: Sequence[Finding], setting: Setting) -> str:
    """One HTML page that asks nothing of the network."""
    return page(
        "verify.html.jinja",
        room="riskalign.theory.verify",
        style="verify.css",
        summary=summary(findings, setting),
        passed=all(finding.passed for finding in findings),
        groups=_by_group(findings),
        verdict=verdict,
        bound_text=bound_text,
        setting=setting,
        versions=versions(),
        commit=commit(),
        created=now(),
    )
