"""`riskalign certify`: a limit on the risk of answers, and whether it is surely kept."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from riskalign.cli.flags import help_with_fields, parse_overrides
from riskalign.cli.progress import with_progress
from riskalign.errors import InputError
from riskalign.terminal import escape, table

EPILOG = (
    "Example: [cyan]riskalign certify --scores answers.jsonl --limit 2 --max_cost 10[/cyan]  ·  "
    "[cyan]riskalign certify --model runs/x/model --world goodwill --limit 20[/cyan]  ·  "
    "[cyan]riskalign certify --scores a.jsonl --limits '[{risk: mean, limit: 1}, "
    "{risk: unsafe_rate, limit: 0.05}]' --max_cost 10[/cyan]"
)
NONE_PASSED = 3  # the exit code where no setting is certified
Help = Annotated[bool, help_with_fields("riskalign.pipeline:BudgetConfig", "The budget")]
_console = Console(highlight=False)


def certify(
    ctx: typer.Context,
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            help="JSON lines of prompt and cost. Repeat it for more settings, the safest first.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder or hub id, asked in --world. Repeat it for more, the safest first.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the certificate here.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    help_: Help = False,
) -> None:
    """The last of some settings that surely keeps a limit; exit code 3 where none does.

    Each costs at most --max_cost. Further fields of a job, as --evaluation.max_new_tokens, say how
    --model is asked.
    """
    from riskalign.pipeline import (
        BudgetConfig,
        certify_files,
        certify_models,
        check_certificate_out,
        load_config,
        load_settings,
        write_certificate,
    )

    if bool(scores) == bool(model):
        raise InputError("certify: give either --scores, files of costs, or --model and --world")
    fields = BudgetConfig.__dataclass_fields__
    given = parse_overrides(ctx.args)
    own = [each for each in given if each.partition("=")[0].partition(".")[0] in fields]
    others = [each for each in given if each not in own]
    if out is not None:
        files = {f"scores {i}": str(path) for i, path in enumerate(scores or [], 1)}
        check_certificate_out(out, overwrite, files)
    if scores:
        if others:
            raise InputError(f"certify: --{others[0].partition('=')[0]} goes with --model")
        found = certify_files(load_settings(BudgetConfig, own), scores)
    else:
        asked = load_config(None, [*others, *(f"budget.{each}" for each in own)])
        found = with_progress(
            lambda progress: certify_models(asked, model or [], progress),
            _console,
            Console(stderr=True),
        )
    command = shlex.join(["riskalign", *sys.argv[1:]])
    if out is not None:
        write_certificate(out, {**found, "command": command})
    show(found, _console)
    if out is not None:
        _console.print(f"certificate  [bold]{escape(str(out))}[/bold]", soft_wrap=True)
    if found["certified"] is None:
        raise typer.Exit(NONE_PASSED)


def show_all(certificates: Iterable[Mapping[str, Any] | None], console: Console) -> None:
    """Print those that there are; exit with code 3 where one of them certifies nothing."""
    found = [each for each in certificates if each is not None]
    for each in found:
        show(each, console)
    if any(each["certified"] is None for each in found):
        raise typer.Exit(NONE_PASSED)


def show(certificate: Mapping[str, Any], console: Console) -> None:
    """Print a certificate's tests, and what came of them."""
    from riskalign.evaluation.wording import certified_words, limit_words, number

    rows = [
        (
            test["setting"],
            limit_words(test),
            number(test["estimate"]),
            number(test["bound"]),
            "kept" if test["passed"] else "not shown",
            f"{test['prompts']:,}",
            f"{test['answers']:,}",
        )
        for test in certificate["tests"]
    ]
    names = ("setting", "limit", "estimate", "at most", "", "prompts", "answers")
    console.print(table(names, rows, title="Settings, the safest first"))
    for sentence in certified_words(certificate):
        console.print(sentence, markup=False, soft_wrap=True)
    if "note" in certificate:
        console.print(certificate["note"], markup=False, soft_wrap=True)
