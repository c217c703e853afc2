"""`riskalign plan`: how many prompts a measurement needs, what two forms of a step can reach."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from riskalign.errors import InputError, door

EPILOG = (
    "Example: [cyan]riskalign plan --level 0.99 --width 0.1[/cyan]  ·  "
    "[cyan]riskalign plan --rate 0.02[/cyan]  ·  "
    "[cyan]riskalign sample --world goodwill --kind answers --out answers.jsonl[/cyan], then "
    "[cyan]riskalign plan --answers answers.jsonl[/cyan]"
)
_LEVELS, _WIDTHS = (0.9, 0.95, 0.99), (0.2, 0.1, 0.05)
_LARGEST = 1e300
_console = Console(highlight=False, soft_wrap=True)


def plan(
    level: Annotated[float | None, typer.Option(help="CVaR's level; by default several.")] = None,
    width: Annotated[
        float | None, typer.Option(help="Width wanted, as a share of the largest cost.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Unsafe rate expected; half of the tail by default.")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Of the interval or the bound; 0.95 by default.")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(help="JSON lines of prompt_id, reward and cost: what could go of their tail."),
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
    from riskalign.evaluation import plan as prompts_needed

    confidence = 0.95 if confidence is None else confidence
    rows = []
    for each in _LEVELS if level is None else (level,):
        for wide in _WIDTHS if width is None else (width,):
            n = prompts_needed(each, wide, rate, confidence)
            counts = (f"{n.to_rule_out:,}", f"{n.to_estimate:,}")
            rows.append((f"{each:g}", f"{wide:g}", f"{n.rate:g}", *counts))
    _show(
        "Prompts to answer, once each, for CVaR of a bounded cost",
        ("level", "width", "unsafe rate", "to rule out", "to estimate"),
        rows,
        "to rule out: with no cost seen, CVaR is below the width times the largest cost, whatever "
        f"the costs' distribution ({confidence:.0%} sure).\nto estimate: at that unsafe rate the "
        "interval is at most so wide; costs below the largest need fewer.\nSeveral answers to a "
        "prompt count as one where they are alike.",
    )


def _show(title: str, names: Iterable[str], rows: Iterable[Iterable[str]], meaning: str) -> None:
    # Narrow: nothing is to be cut at the 80 columns of a pipe.
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.pad_edge = False
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    _console.print(table)
    _console.print(meaning, style="dim")


def _show_ideal(path: Path, level: float, safe_only: bool) -> None:
    from riskalign.evaluation.ideal import MAX_KLS, SAFE_SHARES, SHARES, ideal_ratios

    answers = list(_scored(path))
    if not answers:
        raise InputError(f"{path}: no scored answers in it.")
    columns = ([answer[name] for answer in answers] for name in ("prompt_id", "reward", "cost"))
    start, ideals = ideal_ratios(*columns, level=level, safe_only=safe_only)
    shares = SAFE_SHARES if safe_only else SHARES
    _console.print(
        f"{start.answers} answers to {start.prompts} prompts: reward {start.reward:.3f}, cost "
        f"{start.cost:.3g}, VaR {level:g} {start.var:.3g}, CVaR {level:g} {start.cvar:.4g}, "
        f"CVaR 0.99 {start.cvar_99:.4g}"
    )
    rows = []
    for ideal in ideals:
        mean, tail = ideal.mean, ideal.tail
        at = (f"{mean.cvar:.3g}", f"{tail.cvar:.3g}", f"{ideal.ratio:.2f}")
        at_99 = (f"{mean.cvar_99:.3g}", f"{tail.cvar_99:.3g}", f"{ideal.ratio_99:.2f}")
        effective = f"{min(mean.effective, tail.effective):.1f}"
        eta = "none" if tail.threshold is None else f"{tail.threshold:.3g}"
        rows.append((f"{ideal.reward:.3f}", f"{ideal.max_kl:g}", *at, *at_99, effective, eta))
    missing = len(shares) * len(MAX_KLS) - len(ideals)
    names = ("mean", "tail", "ratio", "at 0.99", "tail", "ratio")
    _show(
        f"Least CVaR {level:g} that weighing these answers reaches",
        ("reward", "KL ≤", *names, "answers", "eta"),
        rows,
        "mean: weights exp(g R - s C), SACPO's form; tail: exp(g R - s (C - eta)+ / (1 - level)). "
        + ("g is 0. " if safe_only else "")
        + f"Rewards are {', '.join(f'{share:g}' for share in shares)} times these answers'. "
        "answers: how many to a prompt the fewer of both weights stand on; where they are few, "
        "the row says little."
        + (f" {missing} rows are left out: no such policy has their reward." if missing else ""),
    )


def _scored(path: Path) -> Iterator[dict[str, Any]]:
    from riskalign.data.sources import text_lines

    for i, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        with door(f"{path}, line {i}: not JSON", "Give one JSON object a line."):
            row = json.loads(line)
        if not isinstance(row, dict) or not isinstance(row.get("prompt_id"), str | int):
            raise InputError(
                f"{path}, line {i}: no field 'prompt_id' of text, which says what was asked"
            )
        for name, least in (("reward", -_LARGEST), ("cost", 0)):
            given = row.get(name)
            if (
                not isinstance(given, int | float)
                or isinstance(given, bool)
                or not least <= given <= _LARGEST
            ):
                raise InputError(
                    f"{path}, line {i}: field {name!r} is {str(given)[:40]}; give a finite number"
                    + (", 0 or more" if least == 0 else "")
                )
        yield row | {"prompt_id": str(row["prompt_id"])}
