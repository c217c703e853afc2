"""`riskalign judge`: systems' answers compared, or graded, by a language model."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

EPILOG = (
    "Example: [cyan]riskalign judge --answers new.jsonl --against old.jsonl "
    "--base_url http://127.0.0.1:8000/v1 --judge_model NAME --output_dir runs/judged[/cyan]\n\n"
    "Answers of a run: [cyan]riskalign judge --answers runs/x/evaluation/final.jsonl "
    "--against runs/x/evaluation/start.jsonl --prompts runs/x ... --dry_run[/cyan]\n\n"
    "The same command again asks only what was not answered."
)
_NAME = re.compile(r"[\w.@-]{1,60}")


def judge(
    answers: Annotated[
        list[str],
        typer.Option(help="FILE or NAME=FILE with a system's answers; may be repeated."),
    ],
    base_url: Annotated[
        str, typer.Option("--base_url", help="The endpoint, up to /v1 for the most part.")
    ],
    judge_model: Annotated[
        str, typer.Option("--judge_model", help="The judge's name at the endpoint.")
    ],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Folder for the results.")],
    against: Annotated[
        str | None,
        typer.Option(
            help="FILE or NAME=FILE of the system that each one is compared with; without it every "
            "two are.",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="What prompt_id stands for: a file with prompt_id and prompt, or a run's folder.",
            show_default=False,
        ),
    ] = None,
    criterion: Annotated[str, typer.Option(help="helpfulness or harmlessness.")] = "helpfulness",
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Grade answers from 1 to 10, one by one.")
    ] = False,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            "--api_key_env",
            help="The environment variable that holds the key; never the key.",
            show_default=False,
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max_tokens", help="Of one reply.")] = 512,
    max_tokens_field: Annotated[
        str,
        typer.Option(
            "--max_tokens_field", help="max_tokens, or max_completion_tokens where it is refused."
        ),
    ] = "max_tokens",
    no_temperature: Annotated[
        bool,
        typer.Option(
            "--no_temperature", help="Send no temperature, where a judge refuses 0, which it is."
        ),
    ] = False,
    judge_seed: Annotated[
        int | None,
        typer.Option("--judge_seed", help="Sent to the endpoint.", show_default=False),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds to a call's last byte, unless its headers drip.")
    ] = 60.0,
    max_retries: Annotated[int, typer.Option("--max_retries", help="After a failed call.")] = 5,
    max_concurrency: Annotated[
        int, typer.Option("--max_concurrency", help="Calls in flight at once.")
    ] = 4,
    price_in: Annotated[
        float, typer.Option("--price_in", help="Of a million prompt tokens.")
    ] = 0.0,
    price_out: Annotated[
        float, typer.Option("--price_out", help="Of a million completion tokens.")
    ] = 0.0,
    max_cost: Annotated[
        float | None,
        typer.Option("--max_cost", help="Stop before it costs more.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the ratings' bootstrap.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry_run", help="Print calls, tokens and cost; ask nothing.")
    ] = False,
) -> None:
    """Let a language model compare systems' answers, each pair in both orders, or grade them."""
    from riskalign.cli.progress import with_progress
    from riskalign.evaluation.judges import JudgeSettings, Judging, Task

    settings = JudgeSettings(
        base_url=base_url,
        model=judge_model,
        api_key_env=api_key_env,
        max_tokens=max_tokens,
        max_tokens_field=max_tokens_field,  # type: ignore[arg-type]  # checked there
        temperature=None if no_temperature else 0,
        seed=judge_seed,
        timeout=timeout,
        max_retries=max_retries,
        max_concurrency=max_concurrency,
        price_in=price_in,
        price_out=price_out,
        max_cost=max_cost,
    )
    systems = _systems([*answers, *([] if against is None else [against])])
    task = Task(
        systems,
        criterion=criterion,  # type: ignore[arg-type]  # checked by Task
        mode="absolute" if absolute else "pairwise",
        base=None if against is None else list(systems)[-1],
        prompts=_prompts(prompts),
        seed=seed,
    )
    judging = Judging(task, settings)
    console = Console()
    if dry_run:
        _show_forecast(judging.forecast(output_dir), settings, console)
        return

    def work(progress: Any) -> Any:
        progress.stage(f"ask-{task.criterion}")
        found = judging.run(
            output_dir,
            tell=lambda n, total, note: progress.update(n, note, total),
            command=shlex.join(["riskalign", *sys.argv[1:]]),
        )
        progress.done(f"{found['spent']['calls']} calls")
        return found

    found = with_progress(work, console, Console(stderr=True))
    console.print()
    print_judged(found, console)
    path = output_dir / "judge.json"
    console.print(f"results  [bold]{escape(str(path))}[/bold]", soft_wrap=True, highlight=False)
    if not found["complete"]:
        console.print(
            "[yellow]stopped[/yellow] at max_cost: the rest is not judged. The same command with a "
            "higher --max_cost goes on.",
            soft_wrap=True,
            highlight=False,
        )
        raise typer.Exit(1)


def _systems(given: list[str]) -> dict[str, Path]:
    from riskalign.errors import InputError

    found: dict[str, Path] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals or Path(text).is_file():
            name, file = Path(text).name.split(".")[0], text
        if not _NAME.fullmatch(name):
            raise InputError(
                f"--answers {text!r}: {name!r} is no name for a system. Give NAME=FILE, with a "
                "name of letters, digits and . _ @ -"
            )
        if name in found:
            raise InputError(f"--answers: two systems are named {name!r}. Give NAME=FILE.")
        found[name] = Path(file)
    return found


def _prompts(source: Path | None) -> dict[str, Any]:
    from riskalign.data.identity import as_text
    from riskalign.evaluation.judges import Message, read_prompts

    if source is None:
        return {}
    if not source.is_dir():
        return dict(read_prompts(source))
    from riskalign.pipeline import evaluation_prompts, load_config

    # A run leaves its configuration, from which its world asks the same again.
    return {
        prompt.id: tuple(Message(m["role"], as_text([m])) for m in prompt.messages)
        for prompt in evaluation_prompts(load_config(source / "config.yaml"))
    }


def _show_forecast(forecast: Any, settings: Any, console: Console) -> None:
    lines = [
        f"questions          {forecast.questions:,}, {forecast.kept:,} of them answered before",
        f"calls              {forecast.calls:,}",
        f"prompt tokens      about {forecast.prompt_tokens:,}",
        f"completion tokens  at most {forecast.completion_tokens:,}",
    ]
    if settings.price_in or settings.price_out:
        lines.append(
            f"cost               about {forecast.cost:.4g} with replies of full length; never more "
            f"than {forecast.most_cost:.4g}"
        )
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def print_judged(found: Mapping[str, Any], console: Console) -> None:
    """Print the content of a `judge.json`."""
    judge = found["judge"]
    title = f"{found['criterion']}, judged by {judge['model']} at {judge['host']}"
    console.print(title, markup=False, highlight=False)
    if found["mode"] == "absolute":
        _print_scores(found, console)
    else:
        _print_pairs(found, console)
    spent = found["spent"]
    words = (
        f"{found['n_prompts']} prompts, {spent['calls']} calls, {spent['prompt_tokens']:,} prompt "
        f"and {spent['completion_tokens']:,} completion tokens, cost {spent['cost']:.4g}"
    )
    if spent["without_usage"]:
        words += f" ({spent['without_usage']} replies told no usage and count with the most)"
    console.print(words, style="dim", markup=False, highlight=False)


def _print_scores(found: Mapping[str, Any], console: Console) -> None:
    table = Table()
    table.add_column("system")
    for name in ("mean score", "answers", "unparsed", "refused", "too long", "not asked"):
        table.add_column(name, justify="right")
    for row in found["scores"]:
        counts = (str(row[key]) for key in ("answers", *_FAILED))
        table.add_row(escape(row["system"]), _interval(row["score"], 2), *counts)
    console.print(table)


def _print_pairs(found: Mapping[str, Any], console: Console) -> None:
    table = Table()
    table.add_column("systems")
    table.add_column("win rate", justify="right", no_wrap=True)
    for name in ("wins", "ties", "losses", "orders differ", "first / second"):
        table.add_column(name, justify="right")
    table.add_column("not judged", justify="right")
    for row in found["pairs"]:
        failed = [f"{row[key]} {key.replace('_', ' ')}" for key in _FAILED if row[key]]
        table.add_row(
            escape(f"{row['a']} against {row['b']}"),
            _interval(row["win_rate"], 3),
            str(row["wins"]),
            str(row["ties"] + row["same"]),
            str(row["losses"]),
            str(row["inconsistent"]),
            f"{row['picked_first']} / {row['picked_second']}",
            "\n".join(failed) or "0",
        )
    console.print(table)
    ratings = Table()
    ratings.add_column("system")
    ratings.add_column("Elo", justify="right")
    for row in sorted(found["elo"], key=lambda row: -(row["elo"] or 0.0)):
        ratings.add_row(escape(row["name"]), _rating(row, found["anchor"]))
    console.print(ratings)


_FAILED = ("unparsed", "refused", "too_long", "not_asked")


def _interval(ends: Mapping[str, float] | None, digits: int) -> str:
    if ends is None:
        return "none judged"
    value, low, high = (f"{ends[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _rating(row: Mapping[str, Any], anchor: str) -> str:
    if row["elo"] is None:
        return "none judged"
    if row["name"] == anchor:
        return f"{row['elo']:.0f} by definition"
    if not row["finite"]:
        return f"{row['elo']:.0f} (no bound)"
    if row["low"] is None:
        return f"{row['elo']:.0f} (too few prompts differ)"
    return f"{row['elo']:.0f} ({row['low']:.0f} to {row['high']:.0f})"
