"""What a job has done by workers: what each is asked, and what is made of what they leave."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel

from riskalign.data import Tokenized
from riskalign.errors import WorkerFailed
from riskalign.evaluation import ScoredAnswer
from riskalign.files.atomic import read_json_lines
from riskalign.models import LoadedModel, load_model
from riskalign.pipeline.conduct import Workers
from riskalign.pipeline.fit import Fit, Fitted, training_config
from riskalign.pipeline.job import Job, ModelOnDisk
from riskalign.pipeline.parts import Asked, Drawn, in_order
from riskalign.pipeline.progress import Update
from riskalign.pipeline.settings import SamplingConfig
from riskalign.training.preparation import prepare_rows
from riskalign.worlds import Prompt, pairs


def in_workers(job: Job, backend: str) -> bool:
    """Whether a job samples in workers; vLLM's engine has processes of its own."""
    return job.launch is not None and backend == "transformers"


def fit_launched(
    job: Job,
    how: Fit,
    loaded: LoadedModel,
    rows: Dataset | Tokenized,
    checkpoints: Path,
    update: Update,
) -> Fitted:
    """As `fit` by workers; the model is a new one, or `loaded` with the adapter that was trained.

    Raises `InputError`, `TrainingDiverged` and `WorkerFailed`.
    """
    step = job.config.step(how.kind)
    if not isinstance(rows, Tokenized):
        args = training_config(step, how.beta, how.seed, how.bf16, checkpoints)
        rows = prepare_rows(rows, "train_dataset", loaded.tokenizer, loaded.model, args)
    asked = {
        "kind": how.kind,
        "start": dataclasses.asdict(how.start),
        "how": {"beta": how.beta, "seed": how.seed, "bf16": how.bf16},
        "counts": dataclasses.asdict(rows.counts),
        "checkpoints": str(checkpoints.resolve()),
    }
    with _alone(job) as place:
        rows.rows.save_to_disk(str(place / "rows"))
        loaded.tokenizer.save_pretrained(place / "tokenizer")
        _ask(job, "fit", asked, place, update)
        return _fitted(job, loaded, place, step.dtype)


def sft_launched(
    job: Job, start: ModelOnDisk, loaded: LoadedModel, rows: Dataset, seed: int, update: Update
) -> Fitted:
    """Supervised tuning on rows by workers, as `fit_launched`."""
    asked = {"start": dataclasses.asdict(start), "seed": seed, "bf16": job.bf16}
    with _alone(job) as place:
        rows.save_to_disk(str(place / "rows"))
        _ask(job, "sft", asked, place, update)
        return _fitted(job, loaded, place, "float32")


def draw_launched(
    job: Job,
    model: ModelOnDisk,
    prompts: Sequence[Prompt],
    sampling: SamplingConfig,
    seed: int,
    update: Update,
) -> list[Drawn]:
    """As `drawn` by workers, of training prompts."""
    asked = {
        "model": dataclasses.asdict(model),
        "sampling": dataclasses.asdict(sampling),
        "seed": seed,
        "bf16": job.bf16,
        "ids": [prompt.id for prompt in prompts],
    }
    with _workers(job).place() as place:
        _ask(job, "draw", asked, place, update)
        return [
            Drawn([pairs.Scored(*answer) for answer in row["answers"]], row["tokens"])
            for row in _shards(place, len(prompts))
        ]


def measure_launched(
    job: Job,
    models: Mapping[str, ModelOnDisk],
    asked: Asked,
    prompts: Sequence[Prompt],
    update: Update,
) -> list[list[ScoredAnswer]]:
    """As `measured` by workers, of prompts of the evaluation or the calibration."""
    about = {
        "models": {name: dataclasses.asdict(model) for name, model in models.items()},
        "asked": dataclasses.asdict(asked),
        "bf16": job.bf16,
        "ids": [prompt.id for prompt in prompts],
        "calibration": bool(prompts) and prompts[0] in job.calibration,
    }
    with _workers(job).place() as place:
        _ask(job, "measure", about, place, update)
        rows = _shards(place, len(prompts))
        return [[ScoredAnswer(**answer) for answer in row] for row in rows]


@contextlib.contextmanager
def _alone(job: Job) -> Iterator[Path]:
    """A request's place with workers of its own, who have the devices to themselves."""
    workers = _workers(job)
    workers.end()
    with workers.place() as place:
        yield place
    workers.end()


def _workers(job: Job) -> Workers:
    assert job.workers is not None
    return job.workers


def _ask(job: Job, work: str, asked: Mapping[str, Any], place: Path, update: Update) -> None:
    request = {
        "work": work,
        "asked": asked,
        "config": dataclasses.asdict(job.config),
        "measured": job.measured,
        "root": str(job.folder.resolve()),
    }
    _workers(job).ask(request, place, update, f"launch: {work}")


def _fitted(job: Job, loaded: LoadedModel, place: Path, dtype: str) -> Fitted:
    """What a training left: a model of its own, or an adapter, which `loaded` gets."""
    result = json.loads((place / "result.json").read_text(encoding="utf-8"))
    folder, trust = place / "trained", job.config.trust_remote_code
    if job.config.peft is not None:
        return Fitted(PeftModel.from_pretrained(loaded.model, str(folder)), **result)
    kind, tokenizer = getattr(torch, dtype), loaded.tokenizer
    model = load_model(folder, dtype=kind, trust_remote_code=trust, tokenizer=tokenizer).model
    return Fitted(model, **result)


def _shards(place: Path, n: int) -> list[Any]:
    """What the workers left of each prompt."""
    lines = [line for path in sorted(place.glob("shard-*.jsonl")) for line in read_json_lines(path)]
    try:
        return in_order(lines, n)
    except KeyError as error:
        raise WorkerFailed(f"launch: the workers left nothing of prompt {error}") from None
