"""Training on rows, the same in a job's own process and in each of several that it starts."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.state import AcceleratorState  # type: ignore[import-untyped]
from datasets import Dataset
from peft import LoraConfig, TaskType
from torch import distributed
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
)

from riskalign.data import Tokenized
from riskalign.errors import InputError
from riskalign.files.atomic import move_folder, remove, write_text
from riskalign.files.folder import files_below
from riskalign.models import load_in_4bit
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.job import ModelOnDisk
from riskalign.pipeline.machine import best_device, model_dtype
from riskalign.pipeline.progress import TrainingProgress, Update
from riskalign.pipeline.settings import Kind, LoraSettings, StepConfig
from riskalign.training import RSAConfig, RSATrainer
from riskalign.training.config import ENGINE, Optimisation

Log = list[dict[str, Any]]

#: Fields of a step that say what rows it has and when.
ROWS = frozenset(
    [
        *("skip", "data", "own_answers", "rows", "anchors", "eval_data", "max_eval_samples"),
        *("answer_risk", "limit", "sampling", "dataset_streaming", "max_train_samples"),
    ]
)
#: All others are the trainer's.
_OF_THE_JOB = ROWS | {"safe_cost", "safety_margin", "warmup_ratio", "dtype", *ENGINE}


@dataclass(frozen=True)
class Fit:
    """What a step on rows is trained with, beside its settings in the job's configuration."""

    kind: Kind
    start: ModelOnDisk
    beta: float
    seed: int
    bf16: bool


class Fitted(NamedTuple):
    """A trained model (its adapter is not merged), and what there is to say of the training."""

    model: Any
    steps: int
    log: Log
    data: dict[str, Any]


def fit(
    config: AlignConfig,
    how: Fit,
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset | Tokenized,
    *,
    checkpoints: Path,
    unfinished: Path,
    update: Update,
) -> RSATrainer:
    """Train `policy`, which is also the reference, on rows; the trainer when it has ended.

    Goes on from the newest of the `checkpoints`; one that is being written lies in `unfinished`,
    which is empty at first and the same folder for all processes.

    Raises `InputError` for data that do not fit and `TrainingDiverged` when the loss is no longer
    finite.
    """
    step = config.step(how.kind)
    args = training_config(step, how.beta, how.seed, how.bf16, unfinished, engine=True)
    if isinstance(policy, str):
        args.trust_remote_code = how.start.trust_remote_code
        args.model_init_kwargs = {"dtype": step.dtype}
    if config.load_in_4bit:
        dtype, trust = model_dtype(how.bf16), how.start.trust_remote_code
        policy = load_in_4bit(how.start.name, compute_dtype=dtype, trust_remote_code=trust)
    elif not isinstance(policy, str):
        policy = policy.to(getattr(torch, step.dtype))
    trainer = RSATrainer(
        model=policy,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora_config(config.peft),
        callbacks=[Checkpoints(checkpoints), TrainingProgress(update), Engine(config, step)],
    )
    # Without tqdm, Trainer prints its logs; they go to log.json and the report instead.
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=newest(checkpoints))
    return trainer


def fitted(trainer: Trainer) -> Fitted:
    """What a training came to; its data are counted where it tokenized them."""
    counts = trainer.data_counts["train_dataset"] if isinstance(trainer, RSATrainer) else None
    data = {} if counts is None else dataclasses.asdict(counts)
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Fitted(trainer.model, trainer.state.global_step, log, data)


def training_config(
    step: StepConfig, beta: float, seed: int, bf16: bool, folder: Path, *, engine: bool = False
) -> RSAConfig:
    """The trainer's settings for one step; with `engine` those that shard it over processes."""
    own = {name: value for name, value in vars(step).items() if name not in _OF_THE_JOB}
    own |= step.engine() if engine else {}
    return RSAConfig(
        **own
        | {"beta": beta, "seed": seed, "bf16": bf16, "warmup_steps": step.warmup_ratio}
        | quiet_arguments(folder)
    )


def quiet_arguments(folder: Path) -> dict[str, Any]:
    """What a job tells every `Trainer`: write to the folder, report to nobody."""
    return {
        "output_dir": str(folder),
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        # Else transformers refuses bf16, which some processors are good at.
        "use_cpu": best_device().type == "cpu",
    }


class Engine(TrainerCallback):
    """Refuses to train in another engine than the one asked for, to which accelerate may fall back.

    On a processor it takes DDP in silence.
    """

    def __init__(self, config: AlignConfig, step: Optimisation) -> None:
        given, wanted = step.engine(), "" if config.launch is None else config.launch.engine()
        self._wanted = (
            "DEEPSPEED" if "deepspeed" in given else "FSDP" if "fsdp" in given else wanted
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raise `InputError` where it is another."""
        ran = AcceleratorState().distributed_type.value
        if self._wanted in ("FSDP", "DEEPSPEED") and ran != self._wanted:
            raise InputError(
                f"launch: {self._wanted} is asked for, and accelerate runs {ran} on this machine."
            )


class Checkpoints(TrainerCallback):
    """Checkpoints that a training goes on from: each has its log, and only the newest stays.

    There is none at the very end, where the model is saved. What is averaged since the last log is
    not in a checkpoint; a resumed run would lack it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False
        control.should_log = control.should_log or control.should_save

    on_epoch_end = on_step_end

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Move a checkpoint, once all have written it, where it counts; the one before it goes."""
        together = distributed.is_available() and distributed.is_initialized()
        if together:
            distributed.barrier()
        if state.is_world_process_zero:
            self._keep(args, state)
        if together:
            distributed.barrier()

    def _keep(self, args: Any, state: TrainerState) -> None:
        name = f"checkpoint-{state.global_step}"
        written = Path(str(args.output_dir)) / name
        for name_below in files_below(written):
            # The folder's name must not reach the disk before the bytes.
            with (written / name_below).open("r+b") as stream:
                os.fsync(stream.fileno())
        move_folder(written, self._folder / name)
        for other in self._folder.glob("checkpoint-*"):
            if other.name != name:
                remove(other)


def lora_config(given: LoraSettings | None) -> LoraConfig | None:
    """PEFT's own settings of an adapter."""
    if given is None:
        return None
    modules = given.target_modules
    layers = modules if isinstance(modules, str) else list(modules)
    return LoraConfig(**vars(given) | {"target_modules": layers, "task_type": TaskType.CAUSAL_LM})


def own_checkpoints(folder: Path, key: str) -> Path:
    """The folder of checkpoints, emptied when they were made from other inputs."""
    name = folder / "inputs.txt"
    if folder.exists() and not (name.is_file() and name.read_text("utf-8") == key):
        remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(name, key)
    return folder


def newest(folder: Path) -> str | None:
    """The newest checkpoint; each was put there whole and goes whole."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)
