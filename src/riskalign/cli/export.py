"""`riskalign export`: what a job certified, as a folder to serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from riskalign.cli.certify import show
from riskalign.terminal import escape

EPILOG = (
    "Example: [cyan]riskalign export runs/x --out served[/cyan]  ·  "
    "[cyan]riskalign export runs/x --baked --out served[/cyan]"
)


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a job with a budget.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    baked: Annotated[
        bool,
        typer.Option("--baked", help="The certified average of weights, a single model."),
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust_remote_code", help="Run code that comes with a model.")
    ] = False,
) -> None:
    """Write what a job certified, with its certificate and a model card: a model, or the dial."""
    from riskalign.pipeline import export_certified

    console = Console(highlight=False)
    show(export_certified(run, out, baked=baked, trust_remote_code=trust_remote_code), console)
    console.print(f"folder  [bold]{escape(str(out))}[/bold]", soft_wrap=True)
