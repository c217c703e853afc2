"""What a job tells about how far it is; the command line draws it."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias

import datasets
import torch
import transformers
from transformers import TrainerCallback, TrainerState

Update: TypeAlias = Callable[[int, int, str], None]  # position, total, note


class Progress(Protocol):
    """One stage at a time: `stage`, any number of `update`s, `done`."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage begins; `total` is the position at which it will end, where that is known."""

    def update(self, n: int, note: str = "", total: int | None = None) -> None:
        """The stage has come to position `n`, of `total` where that is known by now.

        `note` is a few words such as the current loss.
        """

    def done(self, note: str = "") -> None:
        """The stage has ended well; `note` is "done before" where nothing was left to do."""


class Silent:
    """A `Progress` that tells nobody."""

    def stage(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    update = done = stage


def updates(progress: Progress) -> Update:
    """How the work of a stage tells its position."""
    return lambda n, total, note: progress.update(n, note, total)


class TrainingProgress(TrainerCallback):
    """Feeds a trainer's steps, with the last loss as a note, to an `Update`."""

    def __init__(self, update: Update) -> None:
        self._update = update
        self._note = ""

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Tell that a step was made."""
        self._update(state.global_step, state.max_steps, self._note)

    #: A resumed training starts where it stopped.
    on_train_begin = on_step_end

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember the last loss for the note."""
        logs = kwargs.get("logs")
        if isinstance(logs, dict) and "loss" in logs:
            self._note = f"loss {float(logs['loss']):.3g}"


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own bars and notices from drawing over a job's; restored at the end."""
    bars = transformers.utils.logging.is_progress_bar_enabled()
    data_bars = datasets.are_progress_bars_disabled()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    # accelerate imports DeepSpeed wherever it is installed, which then says that it found no GPU.
    told = "DS_ACCELERATOR" in os.environ or torch.cuda.is_available()
    if not told:
        os.environ["DS_ACCELERATOR"] = "cpu"
    try:
        with warnings.catch_warnings():
            # peft reads a property that transformers has renamed; nothing a user can act on.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            yield
    finally:
        if not told:
            os.environ.pop("DS_ACCELERATOR", None)
        if bars:
            transformers.utils.logging.enable_progress_bar()
        if not data_bars:
            datasets.enable_progress_bars()
