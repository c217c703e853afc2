"""One step: training a model against itself as it came in."""

import copy
import dataclasses
import gc
import json
import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, TaskType
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from riskalign.files.atomic import move_folder, remove, scratch, write_text
from riskalign.files.folder import files_below
from riskalign.models import LoadedModel, load_in_4bit, save_model
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.job import ModelOnDisk
from riskalign.pipeline.machine import best_device, model_dtype, use_bf16
from riskalign.pipeline.progress import TrainingProgress, Update
from riskalign.pipeline.settings import Kind, LoraSettings, StepConfig
from riskalign.training import RSAConfig, RSATrainer


def for_inference(loaded: LoadedModel, bf16: bool) -> PreTrainedModel:
    """A copy of the model on the best device, in bfloat16 where wanted; the original stays."""
    model: Any = copy.deepcopy(loaded.model)
    model.to(device=best_device(), dtype=model_dtype(bf16))
    moved: PreTrainedModel = model.eval()
    return moved


#: Fields of a step that say what rows it has and when; all others are the trainer's.
_OF_THE_JOB = frozenset(
    [
        *("skip", "data", "own_answers", "rows", "anchors", "eval_data", "max_eval_samples"),
        *("answer_risk", "limit", "safe_cost", "safety_margin", "warmup_ratio", "sampling"),
    ]
)


def training_config(
    step: StepConfig, *, beta: float, seed: int, bf16: bool, folder: Path
) -> RSAConfig:
    """The trainer's settings for one step."""
    own = {name: value for name, value in vars(step).items() if name not in _OF_THE_JOB}
    return RSAConfig(
        **own
        | {
            "output_dir": str(folder),
            "beta": beta,
            "seed": seed,
            "bf16": bf16,
            "warmup_steps": step.warmup_ratio,
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": torch.cuda.is_available(),
        }
    )


def train_step(
    current: ModelOnDisk,
    pairs: Dataset,
    config: AlignConfig,
    kind: Kind,
    *,
    beta: float,
    folder: Path,
    key: str,
    seed: int,
    update: Update | None = None,
) -> dict[str, Any]:
    """Train a model on the rows at temperature `beta`; its reference is the model as it comes in.

    Leaves `folder/model` (plain weights, an adapter merged), `folder/adapter` for LoRA and
    `folder/log.json`. Checkpoints stay in `folder/checkpoints`, for the caller to remove once the
    outcome is noted; a later call with the same `key` goes on from the last one. An adapter trained
    on 4-bit weights is merged into the weights that those were made of.

    Returns counts of the data and the number of steps. Raises `InputError` for data that do not
    fit and `TrainingDiverged` when the loss is no longer finite; neither leaves a model.
    """
    step = config.step(kind)
    bf16 = use_bf16(step.bf16 if step.bf16 is not None else config.bf16)
    checkpoints = own_checkpoints(folder / "checkpoints", key)
    loaded = current.load()
    policy = loaded.model
    if config.load_in_4bit:
        policy = load_in_4bit(
            current.name,
            compute_dtype=model_dtype(bf16),
            trust_remote_code=current.trust_remote_code,
        )
    caches = loaded.model.config.use_cache
    with scratch(checkpoints) as unfinished:
        trainer = RSATrainer(
            model=policy,
            args=training_config(step, beta=beta, seed=seed, bf16=bf16, folder=unfinished),
            train_dataset=pairs,
            processing_class=loaded.tokenizer,
            peft_config=None if config.peft is None else lora_config(config.peft),
            callbacks=[
                _WhenToSave(),
                _KeepNewest(checkpoints),
                *([TrainingProgress(update)] if update else []),
            ],
        )
        # Without tqdm, Trainer prints its logs; they go to log.json and the report instead.
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=_newest(checkpoints))
    trained: Any = trainer.model
    if config.peft is not None:
        save_model(trained, loaded.tokenizer, folder / "adapter")
        if config.load_in_4bit:
            trained = PeftModel.from_pretrained(loaded.model, str(folder / "adapter"))
        trained = trained.merge_and_unload()
    trained.config.use_cache = caches
    save_model(trained, loaded.tokenizer, folder / "model")
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    write_log(folder, log)
    outcome = {
        "steps": trainer.state.global_step,
        "bf16": bf16,
        "beta": beta,
        "data": dataclasses.asdict(trainer.data_counts["train_dataset"]),
    }
    del trainer, trained
    gc.collect()
    return outcome


def write_log(folder: Path, log: list[dict[str, Any]]) -> None:
    """Write a step's log where `Job.log` reads it.

    In one order of fields: entries that come from a checkpoint have another than fresh ones.
    """
    write_text(folder / "log.json", json.dumps(log, indent=1, sort_keys=True) + "\n")


class _WhenToSave(TrainerCallback):
    """A log with each checkpoint, and no checkpoint at the very end, where the model is saved.

    What is averaged since the last log is not in a checkpoint; a resumed run would lack it.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False
        control.should_log = control.should_log or control.should_save

    on_epoch_end = on_step_end


class _KeepNewest(TrainerCallback):
    """Moves each checkpoint, once it is written, where it counts; the one before it goes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
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


def lora_config(settings: LoraSettings) -> LoraConfig:
    """PEFT's own settings of an adapter."""
    modules = settings.target_modules
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type=TaskType.CAUSAL_LM,
    )


def own_checkpoints(folder: Path, key: str) -> Path:
    """The folder of checkpoints, emptied when they were made from other inputs."""
    name = folder / "inputs.txt"
    if folder.exists() and not (name.is_file() and name.read_text("utf-8") == key):
        remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(name, key)
    return folder


def _newest(folder: Path) -> str | None:
    """The newest checkpoint; each was put there whole and goes whole."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)
