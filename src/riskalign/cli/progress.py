"""Draws a job's stages in the terminal: a bar with the time left for each, a line when done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from riskalign.terminal import escape

_WORDS = {
    "load": "Load the model",
    "pairs": "Sample {} pairs",
    "train": "Train the {} step",
    "evaluate": "Evaluate {}",
    "judge": "Train the {} scorer that judges",
    "label": "Train the {} scorer that labels",
    "accuracy": "Judge the {} step on unseen pairs",
    "model": "Save the model",
    "rare": "Sample and weigh answers",
    "report": "Write the report",
    "cell": "Everything",
    "check": "Check models and sets",
    "answers": "Sample answers of {}",
    "drift": "Measure the drift of {}",
    "scores": "Score answers of {}",
    "r_judge": "Risk judgements of {}",
    "embed": "Embed the texts",
    "fit": "Cross-validate",
    "learn": "Train the scorer",
    "apply": "Score the answers",
    "ask": "Judge {}",
    "verify": "Check the claims",
}


def describe(stage: str) -> str:
    """Return a stage's name in words: ``train-safe`` is "Train the safe step".

    What stands before the last " · ", the cell of a comparison, stays in front of them.
    """
    cell, _, own = stage.rpartition(" · ")
    kind, _, what = own.partition("-")
    words = _WORDS.get(kind, own)
    what = what.replace("dial-", "the dial at w = ").replace("merge-", "the merge at w = ")
    return (f"{cell} · " if cell else "") + words.format(what)


class TerminalProgress:
    """The `riskalign.pipeline.Progress` of a terminal; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._stage, self._note, self._began = "", "", 0.0

    def __enter__(self) -> TerminalProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage."""
        self._clear()
        self._stage, self._note, self._began = describe(name), "", time.monotonic()
        self._task = self._bars.add_task(escape(self._stage), total=total, note="")

    def update(self, n: int, note: str = "", total: int | None = None) -> None:
        """Move the bar to position `n`."""
        self._note = note or self._note
        if self._task is not None:
            self._bars.update(self._task, completed=n, note=self._note, total=total)

    def done(self, note: str = "") -> None:
        """Replace the bar by a line that stays."""
        seconds = f"{time.monotonic() - self._began:6.1f} s"
        note = escape(note or self._note)
        self._console.print(f"[green]✓[/green] {escape(self._stage):<34} {seconds}  [dim]{note}")
        self._clear()

    def _clear(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = None


def with_progress(work: Callable[[Any], Any], console: Console, errors: Console) -> Any:
    """What `work` makes of a `TerminalProgress`; says how to go on when it is stopped."""
    try:
        with TerminalProgress(console) as progress:
            return work(progress)
    except KeyboardInterrupt as stop:
        # Typer ends with exit code 130 and no word.
        kept = "".join(f"; {escape(str(each))}" for each in stop.args)
        with contextlib.suppress(OSError):  # the terminal may be gone
            errors.print(
                f"[yellow]stopped[/yellow]{kept}; the same command takes up what is finished",
                soft_wrap=True,
                highlight=False,
            )
        raise
