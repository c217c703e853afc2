"""`riskalign evaluate --prompts ...`: models on evaluation sets."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Annotated

from rich.console import Console

from riskalign.cli.flags import help_with_fields

EPILOG = (
    "Example: [cyan]riskalign evaluate --model smollm2-135m --final runs/x/model "
    "--output_dir runs/compared[/cyan]\n\n"
    "Example: [cyan]riskalign evaluate --model start=./base --model final=runs/x/model "
    "--prompts prompts.json --over_refusal xstest_prompts.csv --r_judge ./R-Judge/data "
    "--scorer_reward ./reward --scorer_cost ./cost --output_dir runs/sets[/cyan]\n\n"
    "With --final any field of the configuration is a flag; on sets those below are "
    "(docs/evaluation_sets.md)."
)
#: The fields that say that a model is to be measured on sets.
SETS = {"prompts", "helpful_prompts", "over_refusal", "r_judge", "scorer_reward", "scorer_cost"}
Help = Annotated[bool, help_with_fields("riskalign.pipeline:SetsSettings", "On sets")]


def evaluate_sets(models: Sequence[str], overrides: Sequence[str]) -> None:
    """Run the evaluation and print its table; `overrides` (field=value) are of `SetsSettings`."""
    from riskalign.cli.progress import with_progress
    from riskalign.evaluation.sets import print_table, read_sets
    from riskalign.pipeline import SetsSettings, load_settings
    from riskalign.pipeline import evaluate_sets as run

    settings = load_settings(SetsSettings, overrides)
    command = shlex.join(["riskalign", *sys.argv[1:]])
    console = Console()
    results, report = with_progress(
        lambda progress: run(models, settings, progress=progress, command=command),
        console,
        Console(stderr=True),
    )
    console.print()
    print_table(read_sets(results), console)
    for name, path in (("report", report), ("results", results)):
        console.print(f"{name:<8} [bold]{path}[/bold]", soft_wrap=True, highlight=False)
