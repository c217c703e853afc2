"""The commands. Heavy imports happen inside them, so that `--help` answers at once."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from riskalign.cli import certify as certify_command
from riskalign.cli import compare as compare_command
from riskalign.cli import data as data_command
from riskalign.cli import export as export_command
from riskalign.cli import judge as judge_command
from riskalign.cli import plan as plan_command
from riskalign.cli import rare as rare_command
from riskalign.cli import score as score_command
from riskalign.cli import sets as sets_command
from riskalign.cli.flags import help_with_fields, parse_overrides
from riskalign.cli.process import keep_freed_memory, stop_signals
from riskalign.cli.progress import TerminalProgress, with_progress
from riskalign.errors import InputError, RiskalignError
from riskalign.files.atomic import write_text
from riskalign.files.folder import Outputs, check_out, hold
from riskalign.files.ranks import place, refuse_several
from riskalign.terminal import escape

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
OPEN = {"allow_extra_args": True, "ignore_unknown_options": True}
EVALUATE = f"{rare_command.EPILOG}\n\n{sets_command.EPILOG}"
FIELDS = (
    "\n\nAny field of the configuration is a flag: [cyan]--safe.learning_rate 1e-5[/cyan]; "
    "[cyan]riskalign align --help[/cyan] lists them."
)


def _examples(*commands: str, fields: bool = True) -> dict[str, Any]:
    """How a command's help ends; with `fields` any field of the configuration may be a flag."""
    epilog = "Example: " + "  ·  ".join(f"[cyan]riskalign {each}[/cyan]" for each in commands)
    return {
        "epilog": epilog + FIELDS if fields else epilog,
        "context_settings": OPEN if fields else {},
    }


Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file; without it, the defaults.", show_default=False),
]
Preset = Annotated[
    str | None,
    typer.Option(help="A method to lay over the file: riskalign presets lists them."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")]

AllHelp = Annotated[bool, help_with_fields("riskalign.pipeline:AlignConfig", "The job")]


def main() -> None:
    """Run the command line; bad input ends it with a message and exit code 2."""
    keep_freed_memory()
    # Where it is installed peft loads it with every command, and it misses a kernel that few have.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with stop_signals() as stop:
        try:
            refuse_several()
            app()
        except RiskalignError as error:
            if place()[0] == 0:  # one of several says it
                _complain(error)
            sys.exit(2 if isinstance(error, InputError) else 1)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                at = error.filename or "nothing was left half-written"
                _complain(f"the disk is full ({at}).")
            elif error.filename:
                _complain(f"{str(error.filename)!r}: {error.strerror}. Give another path.")
            else:
                raise
            sys.exit(2)
        finally:
            if stop.signum is not None:
                name = signal.Signals(stop.signum).name
                with contextlib.suppress(OSError):  # the terminal may be gone
                    _complain(f"ended by {name}; nothing is half-written")
                sys.exit(128 + stop.signum)


def _complain(error: Exception | str) -> None:
    _say(f"[bold red]error[/bold red] {escape(str(error))}", errors)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Print the version, or leave it to the command."""
    if show:
        from riskalign import __version__

        console.print(f"riskalign {__version__}", highlight=False)
        raise typer.Exit


@app.command(**_examples("quickstart", "quickstart --short --output_dir runs/short"))
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
    add_help_option=False,
    **_examples("align -c recipe.yaml --safe.risk erm:0.5", "align -c recipe.yaml --preset sacpo"),
)
def align(
    ctx: typer.Context, config: Config = None, preset: Preset = None, help_: AllHelp = False
) -> None:
    """Both steps, the evaluation and the report, on your model, data and world."""
    _align(config, parse_overrides(ctx.args), preset=preset)


@app.command(**_examples("train -c recipe.yaml --step safe --model ./helpful"))
def train(
    ctx: typer.Context,
    step: Annotated[str, typer.Option(help="sft, helpful, safe or ppo.")],
    config: Config = None,
) -> None:
    """One step alone, without evaluation."""
    only = ["order=[]"] if step == "sft" else [f"order=[{step}]", "sft=null"]
    _align(config, [*parse_overrides(ctx.args), *only, "merges=[]", "evaluation=null"])


@app.command(**_examples("sample --kind safe --model ./helpful --out safe.jsonl"))
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
        counts = _with_progress(write_answers, settings, out, overwrite=overwrite)
        made = f"{counts['answers']} answers to {counts['prompts']} prompts"
        cost = f"mean cost {counts['mean_cost']:.3g}"
    else:
        counts = _with_progress(write_sampled_pairs, settings, kind, out, overwrite=overwrite)
        form = "groups" if "groups" in counts else "pairs"
        made = f"{counts[form]} {kind} {form} from {counts['answers']} answers"
        cost = f"unsafe {counts['unsafe_rate']:.1%}"
    _say(f"{made}: mean reward {counts['mean_reward']:.3f}, {cost}")
    _say(f"[bold]{out}[/bold]")


@app.command(add_help_option=False, context_settings=OPEN, epilog=EVALUATE)
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
    rare: Annotated[
        bool, typer.Option("--rare", help="With --final: rare harm, helped by looser settings.")
    ] = False,
    w: Annotated[
        float | None,
        typer.Option(
            "--w", help="With --rare: the dial's setting, 1 by default.", show_default=False
        ),
    ] = None,
    looser: Annotated[
        str | None,
        typer.Option(
            help="With --rare: settings below w that are sampled as well, by default 0.75 and 0.5 "
            "below it.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    help_: sets_command.Help = False,
) -> None:
    """Compare an aligned model with its start model in a world, or models on evaluation sets."""
    overrides = parse_overrides(ctx.args)
    if final is not None and rsa is not None:
        raise InputError("evaluate: --rsa is the old name of --final. Give --final alone.")
    final = final or rsa
    if not rare and (w is not None or looser is not None):
        raise InputError("evaluate: --w and --looser go with --rare. Give it as well.")
    if rare and final is None:
        raise InputError("evaluate: --rare measures a model in a world. Give --final.")
    if final is None:
        if step1 is not None or config is not None:
            raise InputError("evaluate: --step1 and --config go with --final. Give it as well.")
        sets_command.evaluate_sets(model or [], overrides)
        return
    for name in {given.partition("=")[0] for given in overrides} & sets_command.SETS:
        raise InputError(f"evaluate: --final measures in a world and --{name} on a set. Give one.")
    if model and len(model) > 1:
        raise InputError("evaluate: with --final there is one --model, the start model.")
    overrides += [f"model={json.dumps(name)}" for name in model or []]
    if rare:
        rare_command.evaluate_rare(config, overrides, final=final, step1=step1, w=w, looser=looser)
        return
    from riskalign.pipeline import evaluate_models, load_config

    results, report = _with_progress(
        evaluate_models,
        load_config(config, overrides),
        final=final,
        step1=step1,
        command=shlex.join(["riskalign", *sys.argv[1:]]),
    )
    _show(results, report, None)


@app.command(**_examples("config --safe.risk erm:0.5 > recipe.yaml"))
def config(ctx: typer.Context, config: Config = None, preset: Preset = None) -> None:
    """Print every field of the configuration as YAML, defaults filled in, to edit and pass on."""
    from riskalign.pipeline import config_text, load_config

    typer.echo(config_text(load_config(config, parse_overrides(ctx.args), preset)), nl=False)


@app.command(**_examples("report runs/quickstart", fields=False))
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


@app.command(
    **_examples("merge runs/x/helpful/model runs/x/safe/model --w 0.5 --out between", fields=False)
)
def merge(
    model_1: Annotated[str, typer.Argument(help="Weight 1 - w: folder, hub id or GGUF file.")],
    model_2: Annotated[str, typer.Argument(help="Weight w.")],
    w: Annotated[float, typer.Option(help="0 is model_1, 1 model_2, above 1 extrapolates.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    trust_remote_code: Annotated[
        bool, typer.Option("--trust_remote_code", help="Run code that comes with a model.")
    ] = False,
) -> None:
    """Average two models' weights, as P-SACPO and RSA(P) do after their two steps."""
    from riskalign.pipeline import write_merge

    write_merge(model_1, model_2, w, out, trust_remote_code=trust_remote_code)
    typer.echo(f"model    {out}")


@app.command(**_examples("verify", "verify --trees 200 --html verify.html", fields=False))
def verify(
    trees: Annotated[int, typer.Option(help="Random trees that each claim is checked on.")] = 52,
    seed: Annotated[int, typer.Option(help="Draws the trees.")] = 0,
    processes: Annotated[
        int | None,
        typer.Option(help="Claims at a time; by default one a core.", min=1, show_default=False),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the findings here.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page here.", show_default=False)
    ] = None,
) -> None:
    """Check the theory by computer: every claim on random trees; exit code 1 if one fails."""
    from riskalign.theory.verify import CLAIMS, Setting, print_findings, render, run, to_json

    setting = Setting(trees, seed)
    with TerminalProgress(console) as progress:
        progress.stage("verify", len(CLAIMS))
        findings = run(setting, tell=progress.update, processes=processes or os.cpu_count() or 1)
    print_findings(findings, setting, console)
    if json_file is not None:
        content = json.dumps(to_json(findings, setting), indent=1, ensure_ascii=False)
        write_text(json_file, content + "\n")
        _say(f"json  [bold]{json_file}[/bold]")
    if html is not None:
        write_text(html, render(findings, setting))
        _say(f"page  [bold]{html}[/bold]")
    if not all(finding.passed for finding in findings):
        raise typer.Exit(1)


app.command(context_settings=OPEN, epilog=compare_command.COMPARE_EPILOG)(compare_command.compare)
app.command(epilog=compare_command.PRESETS_EPILOG)(compare_command.presets)
app.command(context_settings=OPEN, epilog=data_command.EPILOG)(data_command.data)
app.command(epilog=plan_command.EPILOG)(plan_command.plan)
app.command(add_help_option=False, context_settings=OPEN, epilog=certify_command.EPILOG)(
    certify_command.certify
)
app.command(epilog=export_command.EPILOG)(export_command.export)
app.add_typer(score_command.app, name="score")
app.command(add_help_option=False, context_settings=OPEN, epilog=judge_command.EPILOG)(
    judge_command.judge
)


def _align(config: Any, overrides: list[str], **options: Any) -> None:
    from riskalign.pipeline import align as run

    result = _with_progress(run, config, overrides, **options)
    if result.results is None:
        _say(f"model  [bold]{result.model}[/bold]")
    else:
        _show(result.results, result.report, result.model)
    certify_command.show_all((result.certificate, result.baked), console)


def _with_progress(work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return with_progress(
        lambda progress: work(*arguments, progress=progress, **options), console, errors
    )


def _say(text: str, to: Console = console) -> None:
    # No rich wrapping or highlighting inside paths: a message must survive copy and paste.
    to.print(text, soft_wrap=True, highlight=False)


def _show(results: Path, report: Path | None, model: Path | None) -> None:
    from riskalign.evaluation import print_results, read_results

    console.print()
    print_results(read_results(results), console)
    for name, path in (("report", report), ("results", results), ("model", model)):
        if path is not None:
            _say(f"{name:<8} [bold]{path}[/bold]")
