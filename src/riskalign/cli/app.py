"""The commands. Heavy imports happen inside them, so that `--help` answers at once."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import shlex
import signal
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from riskalign.cli import compare as compare_command
from riskalign.cli import data as data_command
from riskalign.cli import judge as judge_command
from riskalign.cli import merge as merge_command
from riskalign.cli import plan as plan_command
from riskalign.cli import score as score_command
from riskalign.cli import sets as sets_command
from riskalign.cli import verify as verify_command
from riskalign.cli.flags import parse_overrides
from riskalign.cli.memory import keep_freed_memory
from riskalign.cli.stop import stop_signals
from riskalign.errors import InputError, RiskalignError
from riskalign.files.folder import Outputs, check_out, hold

app = typer.Typer(
    name="riskalign",
    help="Align a language model in two steps, helpful then safe, and measure its tail.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

# Any field of the configuration may follow a command as a flag.
OPEN = {"allow_extra_args": True, "ignore_unknown_options": True}
Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file; without it, the defaults.", show_default=False),
]
Preset = Annotated[
    str | None,
    typer.Option(help="A method to lay over the file: riskalign presets lists them."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")]
FIELDS = (
    "\n\nAny field of the configuration is a flag: [cyan]--safe.learning_rate 1e-5[/cyan]; "
    "[cyan]riskalign align --help[/cyan] lists them."
)


def _list_fields(ctx: typer.Context, asked: bool) -> None:
    if asked:
        from riskalign.cli.flags import field_tables
        from riskalign.pipeline import AlignConfig

        typer.echo(ctx.get_help())
        console.print(field_tables(AlignConfig))
        raise typer.Exit


AllHelp = Annotated[
    bool,
    typer.Option(
        "--help",
        help="Show this message and every field, and exit.",
        is_eager=True,
        callback=_list_fields,
    ),
]


def main() -> None:
    """Run the command line; bad input ends it with a message and exit code 2."""
    keep_freed_memory()
    # Where it is installed peft loads it with every command, and it misses a kernel that few have.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with stop_signals() as stop:
        try:
            _answer()
        finally:
            if stop.signum is not None:
                name = signal.Signals(stop.signum).name
                with contextlib.suppress(OSError):  # the terminal may be gone
                    _complain(f"ended by {name}; nothing is half-written")
                sys.exit(128 + stop.signum)


def _answer() -> None:
    """Run the command; bad input and the like end it with a message."""
    try:
        app()
    except InputError as error:
        _complain(error)
        sys.exit(2)
    except RiskalignError as error:
        _complain(error)
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _complain(f"the disk is full ({error.filename or 'nothing was left half-written'}).")
        sys.exit(2)


def _complain(error: Exception | str) -> None:
    # No rich wrapping or highlighting inside paths: a message must survive copy and paste.
    errors.print(
        f"[bold red]error[/bold red] {escape(str(error))}", soft_wrap=True, highlight=False
    )


@app.callback(invoke_without_command=True)
def version(
    ctx: typer.Context,
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Print the version, or leave it to the command."""
    if show:
        from riskalign import __version__

        console.print(f"riskalign {__version__}", highlight=False)
        raise typer.Exit
    del ctx


@app.command(
    context_settings=OPEN,
    epilog="Example: [cyan]riskalign quickstart[/cyan]  ·  "
    "[cyan]riskalign quickstart --short --output_dir runs/short[/cyan]" + FIELDS,
)
def quickstart(
    ctx: typer.Context,
    short: Annotated[
        bool, typer.Option("--short", help="Less of everything: about two minutes.")
    ] = False,
) -> None:
    """The main job on a real small model: two steps in the goodwill world, and the report."""
    config = Path(str(files("riskalign.quickstart"))) / f"{'short' if short else 'quickstart'}.yaml"
    command = shlex.join(["riskalign", "quickstart", *(["--short"] if short else []), *ctx.args])
    title = "Quickstart: a shop clerk learns to please, and not at any price"
    _align(config, parse_overrides(ctx.args), title=title, command=command)


@app.command(
    context_settings=OPEN,
    add_help_option=False,
    epilog="Example: [cyan]riskalign align -c recipe.yaml --safe.risk erm:0.5[/cyan]  ·  "
    "[cyan]riskalign align -c recipe.yaml --preset sacpo[/cyan]" + FIELDS,
)
def align(
    ctx: typer.Context, config: Config = None, preset: Preset = None, help_: AllHelp = False
) -> None:
    """Both steps, the evaluation and the report, on your model, data and world."""
    _align(config, parse_overrides(ctx.args), preset=preset)


@app.command(
    context_settings=OPEN,
    epilog="Example: [cyan]riskalign train -c recipe.yaml --step safe --model ./helpful[/cyan]"
    + FIELDS,
)
def train(
    ctx: typer.Context,
    step: Annotated[str, typer.Option(help="sft, helpful, safe or ppo.")],
    config: Config = None,
) -> None:
    """One step alone, without evaluation."""
    only = ["order=[]"] if step == "sft" else [f"order=[{step}]", "sft=null"]
    _align(config, [*parse_overrides(ctx.args), *only, "merges=[]", "evaluation=null"])


@app.command(
    context_settings=OPEN,
    epilog="Example: [cyan]riskalign sample --kind safe --model ./helpful --out safe.jsonl[/cyan]"
    + FIELDS,
)
def sample(
    ctx: typer.Context,
    kind: Annotated[
        str,
        typer.Option(help="helpful or safe: what the pairs are ranked by; answers: none, to plan."),
    ],
    out: Annotated[Path, typer.Option(help="File to write: .jsonl or .jsonl.gz.")],
    config: Config = None,
    overwrite: Overwrite = False,
) -> None:
    """Sample a model's answers in a world and pair them, or write them with their scores."""
    from riskalign.pipeline import load_config, write_answers, write_sampled_pairs

    settings = load_config(config, parse_overrides(ctx.args))
    if kind == "answers":
        counts = _with_progress(
            lambda progress: write_answers(settings, out, overwrite=overwrite, progress=progress)
        )
        console.print(
            f"{counts['answers']} answers to {counts['prompts']} prompts: mean reward "
            f"{counts['mean_reward']:.3f}, mean cost {counts['mean_cost']:.3g}\n[bold]{out}[/bold]",
            soft_wrap=True,
            highlight=False,
        )
        return
    counts = _with_progress(
        lambda progress: write_sampled_pairs(
            settings, kind, out, overwrite=overwrite, progress=progress
        )
    )
    made = "groups" if "groups" in counts else "pairs"
    console.print(
        f"{counts[made]} {kind} {made} from {counts['answers']} answers: mean reward "
        f"{counts['mean_reward']:.3f}, unsafe {counts['unsafe_rate']:.1%}\n[bold]{out}[/bold]",
        soft_wrap=True,
        highlight=False,
    )


@app.command(context_settings=OPEN, epilog=sets_command.EPILOG)
def evaluate(
    ctx: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="With --final the start model. On sets NAME=FOLDER, or a folder or hub id; repeat "
            "it for more models.",
            show_default=False,
        ),
    ] = None,
    final: Annotated[
        str | None, typer.Option(help="In a world: the aligned model, folder or hub id.")
    ] = None,
    rsa: Annotated[str | None, typer.Option(hidden=True)] = None,  # what --final was called
    step1: Annotated[
        str | None, typer.Option(help="In a world: the model after the first step, for the dial.")
    ] = None,
    prompts: sets_command.Prompts = None,
    helpful_prompts: sets_command.HelpfulPrompts = None,
    over_refusal: sets_command.OverRefusal = None,
    r_judge: sets_command.RJudge = None,
    scorer_reward: sets_command.ScorerReward = None,
    scorer_cost: sets_command.ScorerCost = None,
    config: Config = None,
) -> None:
    """Compare an aligned model with its start model in a world, or models on evaluation sets."""
    named = {
        "prompts": prompts,
        "helpful_prompts": helpful_prompts,
        "over_refusal": over_refusal,
        "r_judge": r_judge,
        "scorer_reward": scorer_reward,
        "scorer_cost": scorer_cost,
    }
    given = {name: value for name, value in named.items() if value is not None}
    if final is not None and rsa is not None:
        raise InputError("evaluate: --rsa is the old name of --final. Give --final alone.")
    final = final or rsa
    if final is None:
        if step1 is not None or config is not None:
            raise InputError(
                "evaluate: --step1 and --config go with --final. Give --final as well."
            )
        sets_command.evaluate_sets(model or [], given, parse_overrides(ctx.args))
        return
    if given:
        raise InputError(
            f"evaluate: --final measures in a world and --{next(iter(given))} on a set. Give one."
        )
    if model and len(model) > 1:
        raise InputError("evaluate: with --final there is one --model, the start model.")
    from riskalign.pipeline import evaluate_models, load_config

    overrides = parse_overrides(ctx.args) + [f"model={json.dumps(name)}" for name in model or []]
    settings = load_config(config, overrides)
    command = shlex.join(["riskalign", *sys.argv[1:]])
    results, report = _with_progress(
        lambda progress: evaluate_models(
            settings, final=final, step1=step1, progress=progress, command=command
        )
    )
    _show(results, report, None)


@app.command(
    context_settings=OPEN,
    epilog="Example: [cyan]riskalign config --safe.risk erm:0.5 > recipe.yaml[/cyan]" + FIELDS,
)
def config(ctx: typer.Context, config: Config = None, preset: Preset = None) -> None:
    """Print every field of the configuration as YAML, defaults filled in, to edit and pass on."""
    from riskalign.pipeline import config_text, load_config

    typer.echo(config_text(load_config(config, parse_overrides(ctx.args), preset)), nl=False)


@app.command(epilog="Example: [cyan]riskalign report runs/quickstart[/cyan]")
def report(
    results: Annotated[
        Path | None,
        typer.Argument(help="results.json, or the folder that holds it.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="YAML file of the job, for its output_dir."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file; report.html beside it by default.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the HTML report again from results.json alone, and print the table."""
    from riskalign.evaluation import read_results, write_report

    if results is None:
        from riskalign.pipeline import load_config

        results = Path(load_config(config).output_dir).expanduser() / "results.json"
    source = results / "results.json" if results.is_dir() else results
    read_results(source)
    target = out or source.with_name("report.html")
    if out is None:
        with hold(source.parent, Outputs([target.name]), name="report"):
            write_report(source, target)
    else:
        check_out(target, overwrite, {"results": source})
        write_report(source, target)
    _show(source, target, None)


app.command(context_settings=OPEN, epilog=compare_command.COMPARE_EPILOG)(compare_command.compare)
app.command(epilog=compare_command.PRESETS_EPILOG)(compare_command.presets)
app.command(context_settings=OPEN, epilog=data_command.EPILOG)(data_command.data)
app.command(epilog=merge_command.EPILOG)(merge_command.merge)
app.command(epilog=verify_command.EPILOG)(verify_command.verify)
app.command(epilog=plan_command.EPILOG)(plan_command.plan)
app.add_typer(score_command.app, name="score")
app.command(epilog=judge_command.EPILOG)(judge_command.judge)


def _align(config: Any, overrides: list[str], **options: Any) -> None:
    from riskalign.pipeline import align as run

    result = _with_progress(lambda progress: run(config, overrides, progress=progress, **options))
    if result.results is None:
        console.print(f"model  [bold]{result.model}[/bold]", soft_wrap=True, highlight=False)
    else:
        _show(result.results, result.report, result.model)


def _with_progress(work: Callable[[Any], Any]) -> Any:
    from riskalign.cli.progress import with_progress

    return with_progress(work, console, errors)


def _show(results: Path, report: Path | None, model: Path | None) -> None:
    from riskalign.evaluation import print_results, read_results

    console.print()
    print_results(read_results(results), console)
    for name, path in (("report", report), ("results", results), ("model", model)):
        if path is not None:
            console.print(f"{name:<8} [bold]{path}[/bold]", soft_wrap=True, highlight=False)
