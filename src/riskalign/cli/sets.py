"""`riskalign evaluate --prompts ...`: models on evaluation sets."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Console

EPILOG = (
    "Example: [cyan]riskalign evaluate --model smollm2-135m --final runs/x/model "
    "--output_dir runs/compared[/cyan]\n\n"
    "Example: [cyan]riskalign evaluate --model start=./base --model final=runs/x/model "
    "--prompts prompts.json --over_refusal xstest_prompts.csv --r_judge ./R-Judge/data "
    "--scorer_reward ./reward --scorer_cost ./cost --output_dir runs/sets[/cyan]\n\n"
    "With --final any field of the configuration is a flag. On sets, these are: --output_dir "
    "--baseline --answers_per_prompt --temperature --top_p --max_new_tokens --batch_size --backend "
    "--trained_with --max_prompts --split --prompt_field --category_field --distance_prompts "
    "--risk --threshold --max_length --seed --n_boot --confidence --bf16 --trust_remote_code "
    "(docs/evaluation_sets.md)."
)


def _option(text: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(help=f"On sets: {text}", show_default=False)
    return found


Prompts = Annotated[
    str | None, _option("prompts by category: .json, .jsonl, .csv, .parquet or a hub id.")
]
HelpfulPrompts = Annotated[
    str | None, _option("prompts to measure helpfulness on; otherwise those of --prompts.")
]
OverRefusal = Annotated[
    str | None, _option("prompts labelled safe or unsafe, such as XSTest's file.")
]
RJudge = Annotated[str | None, _option("R-Judge's folder of JSON records, or one file.")]
ScorerReward = Annotated[str | None, _option("folder of a reward model.")]
ScorerCost = Annotated[str | None, _option("folder of a cost model.")]


def evaluate_sets(
    models: Sequence[str], named: Mapping[str, str], overrides: Sequence[str]
) -> None:
    """Run the evaluation and print its table.

    `named` and `overrides` (field=value) are fields of `SetsSettings`.
    """
    from riskalign.cli.progress import with_progress
    from riskalign.evaluation.sets import print_table, read_sets
    from riskalign.pipeline import SetsSettings, load_settings
    from riskalign.pipeline import evaluate_sets as run

    settings = load_settings(
        SetsSettings, [*overrides, *(f"{name}={json.dumps(path)}" for name, path in named.items())]
    )
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
