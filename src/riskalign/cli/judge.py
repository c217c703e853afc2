"""`riskalign judge`: systems' answers compared, or graded, by a language model."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from riskalign.cli.flags import help_with_fields, parse_overrides
from riskalign.errors import InputError
from riskalign.terminal import escape, table

EPILOG = (
    "Example: [cyan]riskalign judge --answers new.jsonl --against old.jsonl "
    "--base_url http://127.0.0.1:8000/v1 --judge_model NAME --output_dir runs/judged[/cyan]\n\n"
    "Answers of a run: [cyan]riskalign judge --answers runs/x/evaluation/final.jsonl "
    "--against runs/x/evaluation/start.jsonl --prompts runs/x ... --dry_run[/cyan]\n\n"
    "The same command again asks only what was not answered."
)
_NAME = re.compile(r"[\w.@-]{1,60}")
_FAILED = ("unparsed", "refused", "too_long", "not_asked")


def _flag(name: str, text: str) -> Any:
    return typer.Option(f"--{name}", help=text)


_AGAINST = "FILE or NAME=FILE of the system that each is compared with; without it every two are."
_PROMPTS = "What prompt_id stands for: a file with prompt_id and prompt, or a run's folder."
#: Fields of the settings that have a flag of another name, or one above.
_NAMED = ("base_url", "model", "api_key_env", "temperature", "seed")


def judge(
    ctx: typer.Context,
    answers: Annotated[
        list[str], _flag("answers", "FILE or NAME=FILE of a system's answers; may be repeated.")
    ],
    base_url: Annotated[str, _flag("base_url", "The endpoint, up to /v1 for the most part.")],
    judge_model: Annotated[str, _flag("judge_model", "The judge's name at the endpoint.")],
    output_dir: Annotated[Path, _flag("output_dir", "Folder for the results.")],
    against: Annotated[str | None, _flag("against", _AGAINST)] = None,
    prompts: Annotated[Path | None, _flag("prompts", _PROMPTS)] = None,
    criterion: Annotated[str, _flag("criterion", "helpfulness or harmlessness.")] = "helpfulness",
    absolute: Annotated[bool, _flag("absolute", "Grade answers from 1 to 10, one by one.")] = False,
    api_key_env: Annotated[
        str | None, _flag("api_key_env", "The variable that holds the key; never the key.")
    ] = None,
    no_temperature: Annotated[
        bool, _flag("no_temperature", "Send no temperature, where a judge refuses 0, which it is.")
    ] = False,
    judge_seed: Annotated[int | None, _flag("judge_seed", "Sent to the endpoint.")] = None,
    seed: Annotated[int, _flag("seed", "Of the ratings' bootstrap.")] = 0,
    dry_run: Annotated[bool, _flag("dry_run", "Print calls, tokens, cost; ask nothing.")] = False,
    help_: Annotated[
        bool,
        help_with_fields("riskalign.evaluation.judges:JudgeSettings", "The endpoint", _NAMED),
    ] = False,
) -> None:
    """Let a language model compare systems' answers, each pair in both orders, or grade them."""
    from riskalign.cli.progress import with_progress
    from riskalign.evaluation.judges import JudgeSettings, Judging, Task
    from riskalign.pipeline import load_settings

    named = {
        "base_url": base_url,
        "model": judge_model,
        "api_key_env": api_key_env,
        "temperature": None if no_temperature else 0,
        "seed": judge_seed,
    }
    given = parse_overrides(ctx.args)
    for name in {each.partition("=")[0] for each in given} & named.keys():
        raise InputError(f"--{name}: no such flag; riskalign judge --help lists all there are.")
    given += [f"{name}={json.dumps(value)}" for name, value in named.items()]
    settings = load_settings(JudgeSettings, given)
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
    console = Console(soft_wrap=True, highlight=False)
    if dry_run:
        _show_forecast(judging.forecast(output_dir), settings, console)
        return

    def work(progress: Any) -> Any:
        progress.stage(f"ask-{task.criterion}")
        content = judging.run(
            output_dir,
            tell=lambda n, total, note: progress.update(n, note, total),
            command=shlex.join(["riskalign", *sys.argv[1:]]),
        )
        progress.done(f"{content['spent']['calls']} calls")
        return content

    content = with_progress(work, console, Console(stderr=True))
    console.print()
    print_judged(content, console)
    console.print(f"results  [bold]{escape(str(output_dir / 'judge.json'))}[/bold]")
    if not content["complete"]:
        console.print(
            "[yellow]stopped[/yellow] at max_cost: the rest is not judged. The same command with a "
            "higher --max_cost goes on."
        )
        raise typer.Exit(1)


def _systems(given: list[str]) -> dict[str, Path]:
    systems: dict[str, Path] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals or Path(text).is_file():
            name, file = Path(text).name.split(".")[0], text
        if not _NAME.fullmatch(name):
            raise InputError(
                f"--answers {text!r}: {name!r} is no name for a system. Give NAME=FILE, with a "
                "name of letters, digits and . _ @ -"
            )
        if name in systems:
            raise InputError(f"--answers: two systems are named {name!r}. Give NAME=FILE.")
        systems[name] = Path(file)
    return systems


def _prompts(source: Path | None) -> dict[str, Any]:
    from riskalign.data.identity import as_text
    from riskalign.evaluation.judges import Turn, read_prompts

    if source is None or not source.is_dir():
        return {} if source is None else dict(read_prompts(source))
    from riskalign.pipeline import evaluation_prompts, load_config

    # A run leaves its configuration, from which its world asks the same again.
    return {
        prompt.id: tuple(Turn(m["role"], as_text([m])) for m in prompt.messages)
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
    console.print("\n".join(lines), markup=False)


def print_judged(content: Mapping[str, Any], console: Console) -> None:
    """Print the content of a `judge.json`."""
    judge, spent = content["judge"], content["spent"]
    title = f"{content['criterion']}, judged by {judge['model']} at {judge['host']}"
    console.print(title, markup=False, highlight=False)
    if content["mode"] == "absolute":
        names = ("system", "mean score", "answers", "unparsed", "refused", "too long", "not asked")
        rows = [
            (row["system"], _interval(row["score"], 2), row["answers"], *map(row.get, _FAILED))
            for row in content["scores"]
        ]
        console.print(table(names, rows))
    else:
        counts = ("wins", "ties", "losses", "orders differ", "first / second", "not judged")
        pairs = table(("systems", "win rate", *counts), map(_pair, content["pairs"]))
        pairs.columns[1].no_wrap = True
        console.print(pairs)
        rated = sorted(content["elo"], key=lambda row: -(row["elo"] or 0.0))
        elo = ((row["name"], _rating(row, content["anchor"])) for row in rated)
        console.print(table(("system", "Elo"), elo))
    words = (
        f"{content['n_prompts']} prompts, {spent['calls']} calls, {spent['prompt_tokens']:,} "
        f"and {spent['completion_tokens']:,} completion tokens, cost {spent['cost']:.4g}"
    )
    if spent["without_usage"]:
        words += f" ({spent['without_usage']} replies told no usage and count with the most)"
    console.print(words, style="dim", markup=False, highlight=False)


def _pair(row: Mapping[str, Any]) -> tuple[Any, ...]:
    failed = [f"{row[key]} {key.replace('_', ' ')}" for key in _FAILED if row[key]]
    return (
        f"{row['a']} against {row['b']}",
        _interval(row["win_rate"], 3),
        row["wins"],
        row["ties"] + row["same"],
        row["losses"],
        row["inconsistent"],
        f"{row['picked_first']} / {row['picked_second']}",
        "\n".join(failed) or "0",
    )


def _interval(ends: Mapping[str, float] | None, digits: int) -> str:
    if ends is None:
        return "none judged"
    value, low, high = (f"{ends[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _rating(row: Mapping[str, Any], anchor: str) -> str:
    if row["elo"] is None:
        return "none judged"
    if row["name"] == anchor:
        told = "by definition"
    elif not row["finite"]:
        told = "(no bound)"
    elif row["low"] is None:
        told = "(too few prompts differ)"
    else:
        told = f"({row['low']:.0f} to {row['high']:.0f})"
    return f"{row['elo']:.0f} {told}"
