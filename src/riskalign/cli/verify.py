"""`riskalign verify`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from riskalign.files.atomic import write_text

EPILOG = (
    "Example: [cyan]riskalign verify[/cyan]  ·  "
    "[cyan]riskalign verify --trees 200 --html verify.html[/cyan]"
)


def verify(
    trees: Annotated[int, typer.Option(help="Random trees that each claim is checked on.")] = 52,
    seed: Annotated[int, typer.Option(help="Draws the trees.")] = 0,
    processes: Annotated[
        int | None,
        typer.Option(help="Claims at a time; by default one a core.", min=1, show_default=False),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the findings here.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page here.", show_default=False)
    ] = None,
) -> None:
    """Check the theory by computer: every claim on random trees; exit code 1 if one fails."""
    from riskalign.theory.verify import CLAIMS, Setting, print_findings, render, run, to_json

    console = Console()
    setting = Setting(trees, seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        task = bars.add_task("", total=len(CLAIMS))
        findings = run(
            setting,
            tell=lambda done, now: bars.update(task, completed=done + 1, description=now),
            processes=processes or os.cpu_count() or 1,
        )
    print_findings(findings, setting, console)
    if json_file is not None:
        content = json.dumps(to_json(findings, setting), indent=1, ensure_ascii=False)
        write_text(json_file, content + "\n")
        console.print(f"json  [bold]{json_file}[/bold]", soft_wrap=True, highlight=False)
    if html is not None:
        write_text(html, render(findings, setting))
        console.print(f"page  [bold]{html}[/bold]", soft_wrap=True, highlight=False)
    if not all(finding.passed for finding in findings):
        raise typer.Exit(1)
