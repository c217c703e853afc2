"""`riskalign score`: train scorers on judged answers, and score answers with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from riskalign.errors import InputError
from riskalign.files.folder import Outputs, check_out, hold, remove_made

TRAIN_EPILOG = (
    "Example: [cyan]riskalign score train --kind cost --data judged.jsonl --half a --out "
    "scorers/cost_a[/cyan]  ·  [cyan]riskalign score train --kind reward --data judged.jsonl "
    "--family causal --model smollm2-135m --out scorers/reward[/cyan]"
)
APPLY_EPILOG = (
    "Example: [cyan]riskalign score apply --scorer scorers/cost_a --data answers.jsonl "
    "--out scored.jsonl[/cyan]"
)

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
    if family not in ("embedding", "causal"):
        raise InputError(f"--family is {family!r}. Give embedding or causal.")
    if family == "causal" and encoder is not None:
        raise InputError("--encoder is of the embedding family. Give --model, or leave it out.")
    if family == "embedding" and model is not None:
        raise InputError("--model is of the causal family. Give --encoder, or --family causal.")
    if kind not in ("reward", "cost"):
        raise InputError(f"--kind is {kind!r}. Give reward or cost.")
    if seed < 0:
        raise InputError(f"--seed is {seed}. Give a number of at least 0.")
    read = {"--data": data, "--eval_data": eval_data, "--model": model, "--encoder": encoder}
    check_out(out, overwrite, read, is_folder=True)
    from riskalign.cli.progress import with_progress
    from riskalign.pipeline.progress import quiet_libraries
    from riskalign.scorers import train_causal_scorer, train_embedding_scorer

    own: Any = kind
    kept = out.with_name(f".{out.name}.embedded")
    options: dict[str, Any] = {"half": half or "", "eval_source": eval_data, "seed": seed}

    def work(progress: Any) -> Any:
        stages = _Stages(progress)
        if family == "causal":
            made: Any = train_causal_scorer(
                own, data, model=model or "smollm2-135m", update=stages, **options
            )
        else:
            made = train_embedding_scorer(
                own, data, encoder=encoder or "minilm", keep=kept, update=stages, **options
            )
        stages.end()
        made.save(out)
        return made

    console = Console()
    with hold(kept, Outputs([]), name="--out"), quiet_libraries():
        scorer = with_progress(work, console, Console(stderr=True))
    remove_made(kept)
    _show(scorer.card, console)
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
    from riskalign.cli.progress import with_progress
    from riskalign.pipeline.progress import quiet_libraries
    from riskalign.scorers import score_file

    def work(progress: Any) -> int:
        stages = _Stages(progress)
        n = score_file(
            scorer,
            data,
            out,
            field=field or "",
            encoder=encoder,
            overwrite=overwrite,
            update=lambda done, total: stages("apply", done, total),
        )
        stages.end()
        return n

    console = Console()
    with quiet_libraries():
        n = with_progress(work, console, Console(stderr=True))
    console.print(f"{n} answers scored\n[bold]{out}[/bold]", soft_wrap=True, highlight=False)


class _Stages:
    """Draws each kind of work as a stage of its own."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._now = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._now:
            self.end()
            self._now = what
            self._progress.stage(what, total)
        self._progress.update(done, total=total)

    def end(self) -> None:
        """The last stage is done."""
        if self._now:
            self._progress.done()
        self._now = ""


def _show(card: Any, console: Console) -> None:
    words = {
        "auc": "AUC, unsafe against safe",
        "pair_accuracy": "pairs in the right order",
        "mixed_pair_accuracy": "pairs of safe and unsafe in the right order",
        "brier": "Brier score",
        "ece": "expected calibration error",
    }
    table = Table(
        title=f"{card.kind.capitalize()} scorer, judged on {card.judged_on}", title_justify="left"
    )
    table.add_column("metric")
    table.add_column("value (95 % interval)", justify="right")
    for name, found in card.metrics.items():
        table.add_row(words[name], f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})")
    console.print(table)
