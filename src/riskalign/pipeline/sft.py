"""The start step `sft`: supervised tuning on the world's own demonstrations."""

import dataclasses
import gc
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from riskalign.files.atomic import scratch
from riskalign.models import fingerprint, load_model, save_model
from riskalign.pipeline import machine
from riskalign.pipeline.job import Job, ModelOnDisk
from riskalign.pipeline.learnt import note_prompts
from riskalign.pipeline.ledger import Outcome, content_hash
from riskalign.pipeline.manifest import stage_seed
from riskalign.pipeline.progress import TrainingProgress, Update
from riskalign.pipeline.settings import SFTConfig
from riskalign.pipeline.steps import lora_config, write_log
from riskalign.training.demonstrations import demonstration_rows, train_on_demonstrations
from riskalign.worlds import demonstrations_of
from riskalign.worlds.world import Demonstration


def demonstrations(job: Job) -> list[Demonstration]:
    """What the step trains on.

    Raises `InputError` where the world has none.
    """
    assert job.world is not None
    assert job.config.sft is not None
    return demonstrations_of(job.world, job.config.sft.demonstrations, _seed(job))


def sft_step(job: Job, current: ModelOnDisk) -> tuple[ModelOnDisk, list[dict[str, Any]]]:
    """Train `current` on the demonstrations; the result, from which the job starts, and its log.

    Leaves `sft/model` (plain weights, an adapter merged) and `sft/log.json`.
    """
    config, folder, stage = job.config, job.folder / "sft", "train-sft"
    settings = config.sft
    assert settings is not None
    shown = demonstrations(job)
    bf16 = machine.use_bf16(config.bf16)
    seed = _seed(job)
    job.manifest.note("seeds", stage, seed)
    prompts = [list(each.prompt.messages) for each in shown]
    answers = [list(each.answers) for each in shown]
    inputs = {
        "model": current.weights,
        "data": content_hash([prompts, answers]),
        "settings": {
            k: v for k, v in vars(settings).items() if k not in ("demonstrations", "seed")
        },
        "peft": config.peft and dataclasses.asdict(config.peft),
        "bf16": bf16,
        "seed": seed,
    }

    def work(key: str, update: Update) -> Outcome:
        loaded = current.load()
        caches = loaded.model.config.use_cache
        rows = demonstration_rows(prompts, answers, loaded.tokenizer, settings.max_length)
        with scratch(folder / "model") as place:
            trainer = train_on_demonstrations(
                loaded.model,
                loaded.tokenizer,
                rows,
                _arguments(settings, seed=seed, bf16=bf16, folder=place),
                peft_config=None if config.peft is None else lora_config(config.peft),
                callbacks=[TrainingProgress(update)],
            )
        trained: Any = trainer.model
        if config.peft is not None:
            trained = trained.merge_and_unload()
        trained.config.use_cache = caches
        save_model(trained, loaded.tokenizer, folder / "model")
        note_prompts(folder / "model", current.name, prompts=prompts)
        write_log(folder, [entry for entry in trainer.state.log_history if "loss" in entry])
        steps = trainer.state.global_step
        del trainer, trained
        gc.collect()
        again = load_model(folder / "model", trust_remote_code=current.trust_remote_code)
        return {
            "steps": steps,
            "prompts": len(prompts),
            "answers": sum(map(len, answers)),
            "bf16": bf16,
            "reference": current.weights,
            "fingerprint": fingerprint(again.model),
            "files": [job.relative(folder / "log.json"), *job.ledger.files_in(folder / "model")],
        }

    outcome = job.stage(stage, inputs, work)
    job.manifest.note(
        "models", "sft", {name: outcome[name] for name in ("reference", "fingerprint")}
    )
    job.note(
        f"The start model is {config.model} after a start step of supervised tuning on "
        f"{outcome['answers']} demonstrated answers to {outcome['prompts']} prompts of the world."
    )
    trained = dataclasses.replace(
        current, name=str(folder / "model"), weights=outcome["fingerprint"]
    )
    return trained, job.log(folder)


def _seed(job: Job) -> int:
    own = job.config.sft.seed if job.config.sft is not None else None
    return stage_seed(job.config, "train-sft") if own is None else own


def _arguments(settings: SFTConfig, *, seed: int, bf16: bool, folder: Path) -> TrainingArguments:
    """The settings in the words of transformers."""
    own = {
        name: value
        for name, value in vars(settings).items()
        if name not in ("demonstrations", "seed", "max_length", "warmup_ratio")
    }
    return TrainingArguments(
        **own
        | {
            "output_dir": str(folder),
            "seed": seed,
            "bf16": bf16,
            "warmup_steps": settings.warmup_ratio,
            "save_strategy": "no",  # minutes of work, and a stage of its own
            "remove_unused_columns": False,
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": torch.cuda.is_available(),
        }
    )
