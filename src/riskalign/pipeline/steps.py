"""Training stages: what all of them save and note, and the step that trains on rows."""

import dataclasses
import gc
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig, PeftModel

from riskalign.data.fields import Text
from riskalign.files.atomic import remove, scratch, write_text
from riskalign.losses import own_parameters
from riskalign.models import LoadedModel, fingerprint, load_model, save_model
from riskalign.pipeline.fit import (
    ROWS,
    Fit,
    Log,
    fit,
    fitted,
    lora_config,
    own_checkpoints,
    training_config,
)
from riskalign.pipeline.job import Job, ModelOnDisk
from riskalign.pipeline.judged import note_prompts
from riskalign.pipeline.launched import fit_launched
from riskalign.pipeline.ledger import Outcome
from riskalign.pipeline.progress import Update
from riskalign.pipeline.settings import Kind, for_order
from riskalign.pipeline.step_data import StepData, step_rows
from riskalign.risk import get_risk
from riskalign.training.preparation import prepare_rows

Result = tuple[ModelOnDisk, Log]
#: These decide other stages, or count by what they resolve to.
_SEPARATE = ROWS | {
    *("beta", "bf16", "per_device_eval_batch_size", "dataset_num_proc", "cache_dataset")
}


@dataclass(frozen=True)
class Trained:
    """What a job's steps left: models by results' names; logs, folders, accuracies by step."""

    models: dict[str, ModelOnDisk]
    logs: dict[str, Log] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    held_out: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Learnt:
    """What a loop leaves: a model (its adapter is merged), its log, counts, prompts learnt from."""

    model: Any
    log: Log
    about: Outcome
    prompts: Iterable[Text] = ()


#: Trains a freshly loaded model; may keep checkpoints in the folder, and tells how far it is.
Loop = Callable[[LoadedModel, Path, Update], Learnt]


def train_stage(
    job: Job,
    name: str,
    start: ModelOnDisk,
    inputs: Mapping[str, Any],
    loop: Loop,
    noted: Iterable[str] = (),
    code: Iterable[str] = (),
) -> Result:
    """The stage `train-<name>`: train `start` by `loop`, save the result; the model and its log.

    Leaves `model` (plain weights) and `log.json` in the step's folder. What the loop left in
    `checkpoints` goes once the outcome is noted; until then the same `inputs` find it there. The
    outcome's fields `noted` go to the manifest's models as well.
    """
    config, folder = job.config, job.folder / name
    inputs = {
        "model": start.weights,
        "peft": config.peft and dataclasses.asdict(config.peft),
        **inputs,
    }

    def work(key: str, update: Update) -> Outcome:
        checkpoints = own_checkpoints(folder / "checkpoints", key)
        loaded = start.load()
        caches = loaded.model.config.use_cache
        learnt = loop(loaded, checkpoints, update)
        adapted = isinstance(learnt.model, PeftModel)
        trained = learnt.model.merge_and_unload() if adapted else learnt.model
        trained.config.use_cache = caches  # `Trainer` turns it off
        save_model(trained, loaded.tokenizer, folder / "model")
        note_prompts(folder / "model", start.name, prompts=learnt.prompts)
        # In one order of fields: entries that come from a checkpoint have another.
        text = json.dumps(learnt.log, indent=1, sort_keys=True)
        write_text(folder / "log.json", text + "\n")
        about = learnt.about
        del loaded, learnt, trained
        gc.collect()
        again = load_model(folder / "model", trust_remote_code=start.trust_remote_code)
        if config.peft is None:
            remove(folder / "adapter")  # of other settings
        files = [folder / name for name in ("adapter", "model", "log.json")]
        return {
            **about,
            "bf16": inputs["bf16"],
            "reference": start.weights,
            "fingerprint": fingerprint(again.model),
            "files": [path for path in files if path.exists()],
        }

    kept = folder / "checkpoints"
    outcome = job.stage(f"train-{name}", inputs, work, code=code, scratch=kept)
    about = {each: outcome[each] for each in ("reference", "fingerprint", *noted)}
    job.manifest.note("models", name, about)
    model = dataclasses.replace(start, name=str(folder / "model"), weights=outcome["fingerprint"])
    return model, json.loads((folder / "log.json").read_text("utf-8"))


@dataclass(frozen=True)
class MethodStep:
    """A step of a method (`riskalign.pipeline.methods`): its job, name and kind, where it starts.

    The model `start` is also the reference.
    """

    job: Job
    name: str
    kind: str
    start: ModelOnDisk

    @property
    def options(self) -> Any:
        """The method's options, of its own class."""
        return self.job.config.options(self.kind)

    @property
    def folder(self) -> Path:
        """The step's folder."""
        return self.job.folder / self.name

    @property
    def adapter(self) -> LoraConfig | None:
        """PEFT's settings where the job trains adapters, else None."""
        return lora_config(self.job.config.peft)

    def seed(self, stage: str = "train", of: str = "") -> int:
        """The seed of one of the step's stages, which the manifest has."""
        return self.job.seed(f"{stage}-{self.name}{of}")

    def pairs(self, kind: Kind) -> tuple[Dataset, str]:
        """Pairs, given or sampled from `start`, and their hash, which belongs to the inputs."""
        data = step_rows(self.job, f"{self.name}-{kind}", kind, self.start, None)
        assert data is not None  # only an aim can be kept already
        return data.rows, data.sha256

    def train(self, inputs: Mapping[str, Any], loop: Loop, noted: Iterable[str] = ()) -> Result:
        """As `train_stage`, made anew where `inputs`, options, world or the method's code change.

        The loop's `about` has what comparisons count, as far as there is any: `steps`, `examples`
        (rows or answers learnt from) and `tokens` (sampled).
        """
        inputs = {
            "settings": dataclasses.asdict(self.options),
            "bf16": self.job.bf16,
            "seed": self.seed(),
            **({} if self.job.world is None else {"world": self.job.world_identity()}),
            **inputs,
        }
        code = [self.kind]
        return train_stage(self.job, self.name, self.start, inputs, loop, noted, code)


def train_step(job: Job, name: str, kind: Kind, start: ModelOnDisk, data: StepData) -> Result:
    """Train `start`, which is also the reference, on a step's rows at their temperature.

    Leaves `adapter` beside the model for LoRA. Goes on from the last checkpoint of the same inputs.
    An adapter trained on 4-bit weights is merged into the weights that those were made of.

    Raises `InputError` for data that do not fit and `TrainingDiverged` when the loss is no longer
    finite; neither leaves a model.
    """
    config, step, folder = job.config, job.config.step(kind), job.folder / name
    seed = job.seed(f"train-{name}")
    bf16 = job.bf16 if step.bf16 is None else step.bf16
    inputs = {
        "data": data.sha256,
        "step": {
            k: v
            for k, v in vars(step).items()
            if k not in _SEPARATE
            and (k != "alpha" or "alpha" in own_parameters(step.loss_type))
            and (k != "loss_options" or v)
        }
        | step.engine_contents(),
        "beta": data.beta,
        "bf16": bf16,
        "seed": seed,
    }
    if config.load_in_4bit:
        inputs["load_in_4bit"] = True

    launch = job.launch
    if launch is not None:
        inputs["launch"] = launch.identity()
    how = Fit(kind, start, data.beta, seed, bf16)

    def loop(loaded: LoadedModel, checkpoints: Path, update: Update) -> Learnt:
        rows, policy = data.tokenized or data.rows, loaded.model
        # An adapter that other weights carried in training is merged into those as they are.
        apart = config.peft is not None and (config.load_in_4bit or step.dtype != "float32")
        if launch is not None:
            found = fit_launched(job, how, loaded, rows, checkpoints, update)
        else:
            if apart and not config.load_in_4bit:
                policy = start.load().model
            tokenizer = loaded.tokenizer
            with scratch(checkpoints) as unfinished:
                places = {"checkpoints": checkpoints, "unfinished": unfinished}
                found = fitted(fit(config, how, policy, tokenizer, rows, **places, update=update))
        trained = found.model
        if config.peft is not None:
            save_model(trained, loaded.tokenizer, folder / "adapter")
            if launch is None and apart:
                trained = PeftModel.from_pretrained(loaded.model, str(folder / "adapter"))
        batch = step.per_device_train_batch_size * step.gradient_accumulation_steps
        batch *= 1 if launch is None else launch.processes
        about = {
            "steps": found.steps,
            "examples": found.steps * batch,
            "beta": data.beta,
            "data": found.data,
        }
        # A labelling scorer has learnt from more prompts, and what it knows of them is passed on.
        preferences = job.data.preferences if step.own_answers else None
        known = [] if preferences is None else preferences.prompts("train")
        return Learnt(trained, found.log, about, itertools.chain(data.rows["prompt"], known))

    code = [step.loss_type, get_risk(step.risk).name]
    return train_stage(job, name, start, inputs, loop, ["beta"], code)


def tokenize_given(job: Job, loaded: LoadedModel) -> None:
    """Tokenize a job's given rows, so that those that the model cannot take are found at once.

    Those that steps train on or are judged on as they are go to `job.tokenized`.

    Raises `InputError`, see `prepare_rows`.
    """
    trained = [kind for _, kind in job.config.steps()]
    for group, given in (("data", job.data.given), ("eval_data", job.data.held_out)):
        for kind, rows in given.items():
            name, step = f"{kind}.{group}", job.config.step(kind)
            later = kind in trained and (group == "eval_data" or step.answer_risk is None)
            if group == "eval_data":  # only the order counts
                step = for_order(step)
            # Neither beta nor what costs are charged is known yet.
            step = dataclasses.replace(step, max_gap=None)
            settings = training_config(step, 1.0, 0, False, job.folder / kind)
            made = prepare_rows(rows, name, loaded.tokenizer, loaded.model, settings)
            if later:
                job.tokenized[name] = made
