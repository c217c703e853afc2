"""`riskalign plan`: how many prompts a measurement needs, what two forms of a step can reach."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from riskalign.errors import InputError

EPILOG = (
    "Example: [cyan]riskalign plan --level 0.99 --width 0.1[/cyan]  ·  "
    "[cyan]riskalign plan --rate 0.02[/cyan]  ·  "
    "[cyan]riskalign sample --world goodwill --kind answers --out answers.jsonl[/cyan], then "
    "[cyan]riskalign plan --answers answers.jsonl[/cyan]"
)
_LEVELS, _WIDTHS = (0.9, 0.95, 0.99), (0.2, 0.1, 0.05)


def plan(
    level: Annotated[
        float | None, typer.Option(help="CVaR's level; by default several.", show_default=False)
    ] = None,
    width: Annotated[
        float | None,
        typer.Option(help="Width wanted, as a share of the largest cost.", show_default=False),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Unsafe rate expected; half of the tail by default.", show_default=False),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(help="Of the interval or the bound; 0.95 by default.", show_default=False),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            help="JSON lines of prompt_id, reward and cost: what could go of their tail instead.",
            show_default=False,
        ),
    ] = None,
    safe_only: Annotated[
        bool,
        typer.Option("--safe_only", help="With --answers: what a safe step alone can do."),
    ] = False,
) -> None:
    """How many prompts a tail measurement needs, or what could go of the tail of given answers."""
    if answers is not None:
        if (width, rate, confidence) != (None, None, None):
            raise InputError("plan: --width, --rate and --confidence do not go with --answers")
        _show_ideal(answers, 0.95 if level is None else level, safe_only)
        return
    if safe_only:
        raise InputError("plan: --safe_only goes with --answers")
    from riskalign.evaluation import plan as needed

    confidence = 0.95 if confidence is None else confidence
    table = Table(
        title="Prompts to answer, once each, for CVaR of a bounded cost", title_justify="left"
    )
    for name in ("level", "width", "unsafe rate", "to rule out", "to estimate"):
        table.add_column(name, justify="right")
    for own_level in _LEVELS if level is None else (level,):
        for own_width in _WIDTHS if width is None else (width,):
            found = needed(own_level, own_width, rate, confidence)
            table.add_row(
                f"{own_level:g}",
                f"{own_width:g}",
                f"{found.rate:g}",
                f"{found.to_rule_out:,}",
                f"{found.to_estimate:,}",
            )
    console = Console()
    console.print(table)
    console.print(
        "to rule out: with no cost seen, CVaR is below the width times the largest cost, whatever "
        f"the costs' distribution ({confidence:.0%} sure).\nto estimate: at that unsafe rate the "
        "interval is at most so wide; costs below the largest need fewer.\nSeveral answers to a "
        "prompt count as one where they are alike.",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )


def _show_ideal(path: Path, level: float, safe_only: bool) -> None:
    from riskalign.evaluation.ideal import MAX_KLS, SAFE_SHARES, SHARES, ideal_ratios

    rows = list(_scored(path))
    start, found = ideal_ratios(
        [str(row["prompt_id"]) for row in rows],
        [row["reward"] for row in rows],
        [row["cost"] for row in rows],
        level=level,
        safe_only=safe_only,
    )
    shares = SAFE_SHARES if safe_only else SHARES
    console = Console()
    console.print(
        f"{start.answers} answers to {start.prompts} prompts: reward {start.reward:.3f}, cost "
        f"{start.cost:.3g}, VaR {level:g} {start.var:.3g}, CVaR {level:g} {start.cvar:.4g}, "
        f"CVaR 0.99 {start.cvar_99:.4g}",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(
        title=f"Least CVaR {level:g} that weighing these answers reaches",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    names = ("reward", "KL ≤", "mean", "tail", "ratio", "at 0.99", "tail", "ratio")
    for name in (*names, "answers", "eta"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found:
        threshold = each.tail.threshold
        table.add_row(
            f"{each.reward:.3f}",
            f"{each.max_kl:g}",
            f"{each.mean.cvar:.3g}",
            f"{each.tail.cvar:.3g}",
            f"{each.ratio:.2f}",
            f"{each.mean.cvar_99:.3g}",
            f"{each.tail.cvar_99:.3g}",
            f"{each.ratio_99:.2f}",
            f"{min(each.mean.effective, each.tail.effective):.1f}",
            "none" if threshold is None else f"{threshold:.3g}",
        )
    console.print(table)
    missing = len(shares) * len(MAX_KLS) - len(found)
    console.print(
        "mean: weights exp(g R - s C), SACPO's form; tail: exp(g R - s (C - eta)+ / (1 - level)). "
        + ("g is 0. " if safe_only else "")
        + f"Rewards are {', '.join(f'{share:g}' for share in shares)} times these answers'. "
        "answers: how many to a prompt the fewer of both weights stand on; where they are few, "
        "the row says little."
        + (f" {missing} rows are left out: no such policy has their reward." if missing else ""),
        style="dim",
        highlight=False,
        soft_wrap=True,
    )


def _scored(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--answers {str(path)!r}: cannot be read: {error}") from error
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {i}: not JSON: {error}") from error
        if not isinstance(row, dict) or "prompt_id" not in row:
            raise InputError(f"{path}, line {i}: no field 'prompt_id', which says what was asked")
        for name in ("reward", "cost"):
            value = row.get(name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (isinstance(value, int | float) and number and math.isfinite(value)):
                raise InputError(f"{path}, line {i}: field {name!r} is {value!r}; give a number")
        yield row
