"""`riskalign score`: train scorers on judged answers, and score answers with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from riskalign.errors import InputError
from riskalign.files.folder import Outputs, check_out, hold, remove_made
from riskalign.terminal import table

TRAIN_EPILOG = (
    "Example: [cyan]riskalign score train --kind cost --data judged.jsonl --half a --out "
    "scorers/cost_a[/cyan]  ·  [cyan]riskalign score train --kind reward --data judged.jsonl "
    "--family causal --model smollm2-135m --out scorers/reward[/cyan]"
)
APPLY_EPILOG = (
    "Example: [cyan]riskalign score apply --scorer scorers/cost_a --data answers.jsonl "
    "--out scored.jsonl[/cyan]"
)

METRICS = {
    "auc": "AUC, unsafe against safe",
    "pair_accuracy": "pairs in the right order",
    "mixed_pair_accuracy": "pairs of safe and unsafe in the right order",
    "brier": "Brier score",
    "ece": "expected calibration error",
}

app = typer.Typer(
    help="Train a reward or cost scorer on judged answers, and score answers with it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")]


@app.command(epilog=TRAIN_EPILOG)
def train(
    kind: Annotated[str, typer.Option(help="reward (higher is better) or cost (more harmful).")],
    data: Annotated[
        str,
        typer.Option(
            help="Judged answers: a file or hub id in PKU-SafeRLHF's fields or TRL's formats."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    family: Annotated[str, typer.Option(help="embedding (quick) or causal.")] = "embedding",
    encoder: Annotated[
        str | None,
        typer.Option(help="Sentence encoder: minilm (default), a hub id or a folder."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Causal model: smollm2-135m (default), hub id or folder.")
    ] = None,
    half: Annotated[
        str | None, typer.Option(help="a or b: half of the prompts; two scorers then share none.")
    ] = None,
    eval_data: Annotated[
        str | None, typer.Option("--eval_data", help="Judged answers to other prompts.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of folds, order and intervals.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train a scorer and say how good it is on prompts that it has not seen."""
    for flag, value, known in (
        ("--family", family, ("embedding", "causal")),
        ("--kind", kind, ("reward", "cost")),
    ):
        if value not in known:
            raise InputError(f"{flag} is {value!r}. Give {' or '.join(known)}.")
    if family == "causal" and encoder is not None:
        raise InputError("--encoder is of the embedding family. Give --model, or leave it out.")
    if family == "embedding" and model is not None:
        raise InputError("--model is of the causal family. Give --encoder, or --family causal.")
    if seed < 0:
        raise InputError(f"--seed is {seed}. Give a number of at least 0.")
    read = {"--data": data, "--eval_data": eval_data, "--model": model, "--encoder": encoder}
    check_out(out, overwrite, read, is_folder=True)
    from riskalign.scorers import train_causal_scorer, train_embedding_scorer

    kept = out.with_name(f".{out.name}.embedded")
    given: dict[str, Any] = {"kind": kind, "source": data, "half": half or "", "seed": seed}
    given["eval_source"] = eval_data

    def work(update: Any) -> Any:
        made: Any
        if family == "causal":
            made = train_causal_scorer(**given, model=model or "smollm2-135m", update=update)
        else:
            given.update(encoder=encoder or "minilm", keep=kept)
            made = train_embedding_scorer(**given, update=update)
        made.save(out)
        return made.card

    with hold(kept, Outputs([]), name="--out"):
        card = _with_stages(work)
    remove_made(kept)
    title = f"{card.kind.capitalize()} scorer, judged on {card.judged_on}"
    rows = (
        (METRICS[name], f"{of.value:.3f} ({of.low:.3f} to {of.high:.3f})")
        for name, of in card.metrics.items()
    )
    console = Console()
    console.print(table(("metric", "value (95 % interval)"), rows, title=title))
    console.print(f"scorer   [bold]{out}[/bold]", soft_wrap=True, highlight=False)


@app.command(epilog=APPLY_EPILOG)
def apply(
    scorer: Annotated[Path, typer.Option(help="Folder that `riskalign score train` wrote.")],
    data: Annotated[str, typer.Option(help="Rows with prompt and answer, completion or response.")],
    out: Annotated[Path, typer.Option(help="File to write: .jsonl or .jsonl.gz.")],
    field: Annotated[
        str | None,
        typer.Option(help="The new field's name: reward or cost by default.", show_default=False),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Where the scorer's encoder is now, if it was moved.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the rows again with a score: reward, or cost as the log-odds of being unsafe."""
    from riskalign.scorers import score_file

    n = _with_stages(
        lambda update: score_file(
            scorer,
            data,
            out,
            field=field or "",
            encoder=encoder,
            overwrite=overwrite,
            update=lambda done, total: update(done, total, "apply"),
        )
    )
    text = f"{n} answers scored\n[bold]{out}[/bold]"
    Console().print(text, soft_wrap=True, highlight=False)


def _with_stages(work: Callable[[Callable[[int, int, str], None]], Any]) -> Any:
    """What `work` makes of a way to tell how far it is, each kind of work drawn as a stage."""
    from riskalign.cli.progress import with_progress
    from riskalign.pipeline.progress import quiet_libraries

    def drawn(progress: Any) -> Any:
        stages: list[str] = []

        def update(done: int, total: int, stage: str) -> None:
            if stage not in stages:
                if stages:
                    progress.done()
                stages.append(stage)
                progress.stage(stage, total)
            progress.update(done, total=total)

        made = work(update)
        if stages:
            progress.done()
        return made

    with quiet_libraries():
        return with_progress(drawn, Console(), Console(stderr=True))
