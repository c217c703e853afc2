"""`riskalign compare`: methods against each other, and `riskalign presets`: which there are."""

from __future__ import annotations

import functools
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from riskalign.cli.flags import parse_overrides

COMPARE_EPILOG = (
    "Example: [cyan]riskalign compare -c recipes/vault/compare.yaml --presets sacpo,rsa-tail "
    "--seeds 0,1[/cyan]\n\nAny field of the configuration is a flag, and holds for every method."
)
PRESETS_EPILOG = "Example: [cyan]riskalign presets[/cyan]  ·  [cyan]riskalign presets sacpo[/cyan]"


def compare(
    ctx: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML file of a job with group 'compare'.")
    ] = None,
    presets: Annotated[
        str | None, typer.Option(help="Methods, separated by commas; riskalign presets lists them.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, separated by commas.")] = None,
    redo_stale: Annotated[
        bool, typer.Option("--redo-stale", help="Make cells anew that other code finished.")
    ] = False,
) -> None:
    """Run methods x seeds on one job and compare their tails; goes on where it was stopped."""
    from riskalign.cli.progress import with_progress
    from riskalign.evaluation import print_comparison, read_comparison
    from riskalign.pipeline import load_plan, run_plan

    plan = load_plan(
        config,
        parse_overrides(ctx.args),
        presets=presets,
        seeds=seeds,
        command=shlex.join(["riskalign", *sys.argv[1:]]),
    )
    console = Console()
    run = functools.partial(run_plan, plan, redo_stale=redo_stale)
    result = with_progress(lambda progress: run(progress=progress), console, Console(stderr=True))
    console.print()
    print_comparison(read_comparison(result.results), console)
    for name, path in (("report", result.report), ("results", result.results)):
        console.print(f"{name:<8} [bold]{path}[/bold]", soft_wrap=True, highlight=False)


def presets(
    name: Annotated[str | None, typer.Argument(help="A preset, to print its YAML.")] = None,
) -> None:
    """List the methods that --preset and compare know, or print one."""
    from riskalign.pipeline import preset_names, preset_text

    if name is not None:
        typer.echo(preset_text(name), nl=False)
        return
    for each in preset_names():
        lines = preset_text(each).splitlines()
        about = [line.lstrip("# ") for line in lines if line.startswith("#")]
        typer.echo(f"{each:<18} {' '.join(about)}")
