"""`riskalign data`: what is in a file of judged answers, and the pairs that are made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from riskalign.cli.flags import parse_overrides
from riskalign.errors import InputError
from riskalign.terminal import table

EPILOG = (
    "Example: [cyan]riskalign data judged.jsonl.gz --safe_pairs one_safe --out pairs[/cyan]  ·  "
    "more options: the fields of data in a configuration, such as [cyan]--max_pairs 500[/cyan]"
)


def data(
    ctx: typer.Context,
    path: Annotated[
        str,
        typer.Argument(
            help="File, folder or hub id, in PKU-SafeRLHF's, hh-rlhf's or TRL's fields."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="New folder for the pairs, as JSON lines.", show_default=False),
    ] = None,
) -> None:
    """Count what a file of judged answers gives: helpful and safe pairs, and prompts held out."""
    from riskalign.data import PreferenceSettings, load_preferences, write_preferences
    from riskalign.pipeline import load_settings

    if out is not None and out.exists():
        raise InputError(f"out: {str(out)!r} exists. Give a new folder.")
    given = [*parse_overrides(ctx.args), f"path={json.dumps(path)}"]
    found = load_preferences(load_settings(PreferenceSettings, given))
    console = Console()
    rows = ((name, f"{number:,}") for name, number in found.counts.items())
    console.print(table(("what", "number"), rows))
    if out is not None:
        write_preferences(found, out)
        console.print(f"pairs  [bold]{out}[/bold]", soft_wrap=True, highlight=False)
