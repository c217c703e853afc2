"""`riskalign plan`: prompts that a measurement needs, what a step can reach, memory it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from riskalign.cli.memory import memory_tables
from riskalign.errors import InputError

EPILOG = (
    "Example: [cyan]riskalign plan --level 0.99 --width 0.1[/cyan]  ·  "
    "[cyan]riskalign plan --rate 0.02[/cyan]  ·  "
    "[cyan]riskalign sample --world goodwill --kind answers --out answers.jsonl[/cyan], then "
    "[cyan]riskalign plan --answers answers.jsonl[/cyan]  ·  "
    "[cyan]riskalign plan --model my-model --gpus 8 --gpu-memory 80[/cyan]"
)
_LEVELS, _WIDTHS = (0.9, 0.95, 0.99), (0.2, 0.1, 0.05)
_LARGEST = 1e300
_console = Console(highlight=False, soft_wrap=True)


def plan(
    level: Annotated[float | None, typer.Option(help="CVaR's level; by default several.")] = None,
    width: Annotated[float | None, typer.Option(help="Width, of the largest cost.")] = None,
    rate: Annotated[float | None, typer.Option(help="Unsafe rate; default: half the tail.")] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Of the interval; 0.95 by default.")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="JSON lines of prompt_id, reward, cost, to be weighed.")
    ] = None,
    safe_only: Annotated[
        bool, typer.Option("--safe_only", help="With --answers: of a safe step alone.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Folder, config.json or hub id: plan its training's memory.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="Of all machines; 1 by default.")] = None,
    gpu_memory: Annotated[
        float | None, typer.Option("--gpu-memory", "--gpu_memory", help="GiB of a GPU; 80.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", "--max_length", help="Prompt and response; 512.")
    ] = None,
    max_prompt_length: Annotated[
        int | None,
        typer.Option("--max-prompt-length", "--max_prompt_length", help="Half by default."),
    ] = None,
    per_device_train_batch_size: Annotated[
        int | None,
        typer.Option(
            "--per-device-train-batch-size", "--per_device_train_batch_size", help="Pairs; 4."
        ),
    ] = None,
    gradient_accumulation_steps: Annotated[
        int | None,
        typer.Option(
            "--gradient-accumulation-steps", "--gradient_accumulation_steps", help="1 by default."
        ),
    ] = None,
    lora_r: Annotated[
        int | None, typer.Option("--lora-r", "--lora_r", help="Rank of an adapter; 16.")
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing", help="Both by default."
        ),
    ] = None,
    bf16: Annotated[
        bool | None, typer.Option("--bf16/--no-bf16", help="Compute in bfloat16: yes by default.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of weights as loaded: float32 (default) or bfloat16.")
    ] = None,
) -> None:
    """How many prompts a measurement needs, what could go of a tail, or memory of training."""
    setup = {
        "gpus": gpus,
        "max_length": max_length,
        "max_prompt_length": max_prompt_length,
        "per_device_train_batch_size": per_device_train_batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "lora_r": lora_r,
        "bf16": bf16,
        "dtype": dtype,
    }
    of_memory = setup | {"gpu_memory": gpu_memory, "gradient_checkpointing": gradient_checkpointing}
    of_prompts = {"level": level, "width": width, "rate": rate, "confidence": confidence}
    others = of_prompts | {"answers": answers, "safe_only": safe_only or None}
    if given := [f"--{k}" for k, v in (others if model else of_memory).items() if v is not None]:
        raise InputError(f"plan: {given[0]} {'does not go with' if model else 'needs'} --model")
    if model is not None:
        known = {name: value for name, value in setup.items() if value is not None}
        with _console.status("one training step on tensors without content …"):
            tables = list(
                memory_tables(
                    model, 80 if gpu_memory is None else gpu_memory, gradient_checkpointing, known
                )
            )
        for table in tables:
            _show(*table)
        return
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
            rows.append(f"{each:g} {wide:g} {n.rate:g} {n.to_rule_out:,} {n.to_estimate:,}")
    _show(
        "Prompts to answer, once each, for CVaR of a bounded cost",
        ("level", "width", "unsafe rate", "to rule out", "to estimate"),
        rows,
        "to rule out: with no cost seen, CVaR is below the width times the largest cost, whatever "
        f"the costs' distribution ({confidence:.0%} sure).\nto estimate: at that unsafe rate the "
        "interval is at most so wide; costs below the largest need fewer.\nSeveral answers to a "
        "prompt count as one where they are alike.",
    )


def _show_ideal(path: Path, level: float, safe_only: bool) -> None:
    from riskalign.evaluation.ideal import MAX_KLS, SAFE_SHARES, SHARES, ideal_ratios

    answers = list(_scored(path))
    if not answers:
        raise InputError(f"{path}: no scored answers in it; give at least one.")
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
        rows.append(
            f"{ideal.reward:.3f} {ideal.max_kl:g} "
            f"{mean.cvar:.3g} {tail.cvar:.3g} {ideal.ratio:.2f} "
            f"{mean.cvar_99:.3g} {tail.cvar_99:.3g} {ideal.ratio_99:.2f} "
            f"{min(mean.effective, tail.effective):.1f} "
            + ("none" if tail.threshold is None else f"{tail.threshold:.3g}")
        )
    missing = len(shares) * len(MAX_KLS) - len(ideals)
    _show(
        f"Least CVaR {level:g} that weighing these answers reaches",
        ("reward", "KL ≤", "mean", "tail", "ratio", "at 0.99", "tail", "ratio", "answers", "eta"),
        rows,
        "mean: weights exp(g R - s C), SACPO's form; tail: exp(g R - s (C - eta)+ / (1 - level)). "
        + ("g is 0. " if safe_only else "")
        + f"Rewards are {', '.join(f'{share:g}' for share in shares)} times these answers'. "
        "answers: how many to a prompt the fewer of both weights stand on; where they are few, "
        "the row says little."
        + (f" {missing} rows are left out: no such policy has their reward." if missing else ""),
    )


def _show(title: str, names: Iterable[str], rows: Iterable[str], meaning: str) -> None:
    """Print a table, if it has rows, and its meaning; a row is one text, cells parted by spaces."""
    # Narrow: nothing is to be cut at the 80 columns of a pipe.
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.pad_edge = False
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row.split())
    if table.columns:
        _console.print(table)
    if meaning:
        _console.print(meaning, style="dim")


def _scored(path: Path) -> Iterator[dict[str, Any]]:
    from riskalign.data.sources import file_rows

    for where, row in file_rows(path):
        if not isinstance(row, dict) or not isinstance(row.get("prompt_id"), str | int):
            raise InputError(f"{where}: no field 'prompt_id' of text, which says what was asked")
        for name, least in (("reward", -_LARGEST), ("cost", 0)):
            value = row.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                value = math.nan
            if not least <= value <= _LARGEST:
                wanted = "a finite number" + (", 0 or more" if least == 0 else "")
                raise InputError(
                    f"{where}: field {name!r} is {str(row.get(name))[:40]}; give {wanted}"
                )
        yield row | {"prompt_id": str(row["prompt_id"])}
