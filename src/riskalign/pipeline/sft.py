"""The start step `sft`: supervised tuning on the world's own demonstrations."""

from pathlib import Path

from datasets import Dataset
from transformers import TrainingArguments

from riskalign.files.atomic import scratch
from riskalign.models import LoadedModel
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.fit import Engine, fitted, lora_config, quiet_arguments
from riskalign.pipeline.job import Job, ModelOnDisk
from riskalign.pipeline.launched import sft_launched
from riskalign.pipeline.ledger import content_hash, stage_seed
from riskalign.pipeline.progress import TrainingProgress, Update
from riskalign.pipeline.steps import Learnt, Result, train_stage
from riskalign.training.config import ENGINE
from riskalign.training.demonstrations import (
    DemonstrationTrainer,
    demonstration_rows,
    train_on_demonstrations,
)
from riskalign.worlds import demonstrations_of
from riskalign.worlds.world import Demonstration

_OF_THE_JOB = ("demonstrations", "seed")


def demonstrations(job: Job) -> list[Demonstration]:
    """What the step trains on.

    Raises `InputError` where the world has none.
    """
    assert job.world is not None
    assert job.config.sft is not None
    return demonstrations_of(job.world, job.config.sft.demonstrations, _seed(job))


def sft_step(job: Job, start: ModelOnDisk) -> Result:
    """Train `start` on the demonstrations; the result, from which the job starts, and its log."""
    config, settings, seed = job.config, job.config.sft, _seed(job)
    assert settings is not None
    shown = demonstrations(job)
    prompts = [list(each.prompt.messages) for each in shown]
    answers = [list(each.answers) for each in shown]
    n_answers = sum(map(len, answers))
    job.manifest.note("seeds", "train-sft", seed)
    own = {k: v for k, v in vars(settings).items() if k not in _OF_THE_JOB}
    own |= settings.engine_contents()
    inputs = {
        "data": content_hash([prompts, answers]),
        "settings": own,
        "bf16": job.bf16,
        "seed": seed,
    }
    if job.launch is not None:
        inputs["launch"] = job.launch.identity()

    def loop(loaded: LoadedModel, folder: Path, update: Update) -> Learnt:
        rows = demonstration_rows(prompts, answers, loaded.tokenizer, settings.max_length)
        if job.launch is not None:
            found = sft_launched(job, start, loaded, rows, seed, update)
        else:
            with scratch(folder) as place:
                bf16 = job.bf16
                trainer = tune(config, loaded, rows, place, update, seed=seed, bf16=bf16)
            found = fitted(trainer)
        about = {
            "steps": found.steps,
            "prompts": len(prompts),
            "answers": n_answers,
        }
        return Learnt(found.model, found.log, about, prompts)

    trained = train_stage(job, "sft", start, inputs, loop)
    job.note(
        f"The start model is {config.model} after a start step of supervised tuning on "
        f"{n_answers} demonstrated answers to {len(prompts)} prompts of the world."
    )
    return trained


def tune(
    config: AlignConfig,
    loaded: LoadedModel,
    rows: Dataset,
    folder: Path,
    update: Update,
    *,
    seed: int,
    bf16: bool,
) -> DemonstrationTrainer:
    """Train a model on rows as `sft` of a configuration says; `folder` is for the trainer."""
    settings = config.sft
    assert settings is not None
    not_given = ("max_length", "warmup_ratio", *_OF_THE_JOB, *ENGINE)
    fields = {k: v for k, v in vars(settings).items() if k not in not_given} | settings.engine()
    arguments = TrainingArguments(
        **fields
        | quiet_arguments(folder)
        | {
            "seed": seed,
            "bf16": bf16,
            "warmup_steps": settings.warmup_ratio,
            "save_strategy": "no",  # minutes of work, and a stage of its own
            "remove_unused_columns": False,
        }
    )
    return train_on_demonstrations(
        loaded.model,
        loaded.tokenizer,
        rows,
        arguments,
        peft_config=lora_config(config.peft),
        callbacks=[TrainingProgress(update), Engine(config, settings)],
    )


def _seed(job: Job) -> int:
    own = job.config.sft.seed if job.config.sft is not None else None
    return stage_seed(job.config, "train-sft") if own is None else own
