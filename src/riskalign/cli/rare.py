"""`riskalign evaluate --rare`: the flags' values, and the table of rare.json."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from riskalign.errors import InputError

EPILOG = (
    "Example: [cyan]riskalign evaluate --rare --step1 runs/x/helpful/model --final runs/x/model "
    "--world goodwill --evaluation.prompts 500 --output_dir runs/rare[/cyan]"
)


def evaluate_rare(
    config: Path | None,
    overrides: Sequence[str],
    *,
    final: str,
    step1: str | None,
    w: float | None,
    looser: str | None,
) -> None:
    """Measure, write rare.json, print its table."""
    given = None if looser is None else _numbers(looser)
    from riskalign.cli.progress import with_progress
    from riskalign.pipeline import evaluate_rare as run
    from riskalign.pipeline import load_config

    settings = load_config(config, overrides)
    command = shlex.join(["riskalign", *sys.argv[1:]])
    console = Console()
    path = with_progress(
        lambda progress: run(
            settings,
            final=final,
            step1=step1,
            w=1.0 if w is None else w,
            looser=given,
            progress=progress,
            command=command,
        ),
        console,
        Console(stderr=True),
    )
    console.print()
    print_rare(json.loads(path.read_text(encoding="utf-8")), console)
    console.print(f"rare     [bold]{path}[/bold]", soft_wrap=True, highlight=False)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"looser: {text!r} is no list of numbers; give settings between commas: 0.25,0.5"
        ) from None


def print_rare(content: dict[str, Any], console: Console) -> None:
    """Unsafe rate and CVaRs with intervals, what they stand on, and the model's own answers."""
    from riskalign.evaluation import METRICS, wording

    rare, own = content["rare"], content["own"]
    percent = wording.percent_of(content["confidence"])
    table = Table(title="Rare harm", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("metric")
    if rare is not None:
        table.add_column(f"w = {content['w']:g}", justify="right")
        table.add_column("stands on", justify="right")
    table.add_column(f"{own['answers']:,} own answers alone", justify="right")
    for key in ("unsafe_rate", "cvar_0.95", "cvar_0.99"):
        metric, cells = METRICS[key], []
        for ends in [own[key]] if rare is None else [rare[key], own[key]]:
            high = math.inf if ends["high"] is None else ends["high"]
            cells.append("\n".join(wording.lines(metric, {**ends, "high": high})))
        if rare is not None:
            cells.insert(1, f"{rare['effective'][key]:,.1f}\nunsafe")
        table.add_row(metric.label, *cells)
    console.print(table)
    notes = [f"second lines: {percent} intervals over {content['n_prompts']:,} prompts"]
    if rare is None:
        notes.append("plain sampling: without --step1 there is no dial to be helped by")
    else:
        notes += _weighing(content, rare)
    bounds = ", ".join(
        f"{METRICS[key].label} {wording.amount(METRICS[key], value)}"
        for key, value in content["bounds"].items()
    )
    notes.append(f"{percent} upper bounds that assume nothing, from own answers alone: {bounds}")
    for note in notes:
        console.print(f"• {note}", style="dim", highlight=False, soft_wrap=True)


def _weighing(content: dict[str, Any], rare: dict[str, Any]) -> list[str]:
    looser = ", ".join(f"{w:g}" for w in content["looser"])
    notes = [
        f"{rare['answers']:,} answers, {content['counts'][0]} in {sum(content['counts'])} at w and "
        f"the rest at {looser}, weighed back to w: effective size {rare['effective']['all']:,.0f}, "
        f"largest weight {rare['largest_weight']:.3g}",
        "stands on: as many unsafe answers would plain sampling have to see to know as much",
        "the intervals take it that looser settings give every kind of harm that w gives",
    ]
    worth = rare["worth"]
    if worth is None:
        notes.append("no unsafe answer at any setting: the interval is what own answers rule out")
    else:
        notes.append(f"worth about {worth:,.0f} answers of w alone")
        if worth < rare["answers"]:
            notes[-1] += ": fewer than were drawn. Give --looser nearer to w, or sample plainly"
    return notes
