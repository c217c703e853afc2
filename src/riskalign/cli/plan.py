"""`riskalign plan`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

EPILOG = (
    "Example: [cyan]riskalign plan --level 0.99 --width 0.1[/cyan]  ·  "
    "[cyan]riskalign plan --rate 0.02[/cyan]"
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
    confidence: Annotated[float, typer.Option(help="Of the interval or the bound.")] = 0.95,
) -> None:
    """How many prompts a tail measurement needs, before any is answered."""
    from riskalign.evaluation import plan as needed

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
