"""The whole job: load, pairs, train, pairs, train, evaluate, dial, report; each stage once."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from riskalign.errors import InputError
from riskalign.files.atomic import link_or_copy, new_folder, remove
from riskalign.losses import own_parameters
from riskalign.models import LoadedModel, check_4bit, fingerprint, load_model
from riskalign.models.sampling import checked_prompts
from riskalign.pipeline import machine
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.evaluate import Training, evaluate, report
from riskalign.pipeline.given import given_data, held_out_data
from riskalign.pipeline.held_out import held_out_accuracy
from riskalign.pipeline.job import Job, ModelOnDisk
from riskalign.pipeline.judged import preferences_of
from riskalign.pipeline.learnt import note_prompts
from riskalign.pipeline.ledger import Outcome, content_hash
from riskalign.pipeline.manifest import stage_seed
from riskalign.pipeline.own_scorers import train_scorers
from riskalign.pipeline.parse import load_config
from riskalign.pipeline.progress import Progress, Silent, Update, quiet_libraries
from riskalign.pipeline.rlhf import ppo_step
from riskalign.pipeline.settings import Kind, for_order
from riskalign.pipeline.sft import demonstrations, sft_step
from riskalign.pipeline.step_data import StepData, step_pairs, step_rows
from riskalign.pipeline.steps import train_step, training_config
from riskalign.plugin import outside
from riskalign.risk import get_risk
from riskalign.training.preparation import check_experts, prepare_rows

# Step settings that decide other stages, or count by what they resolve to.
_EVALUATION = ("eval_data", "max_eval_samples", "per_device_eval_batch_size")
# What becomes of answer_risk and limit is in the rows and the temperature.
_SEPARATE = (
    *("skip", "data", "own_answers", "sampling", "beta", "bf16"),
    *("rows", "anchors", "answer_risk", "limit"),
    *_EVALUATION,
)

_CHECKPOINT_WEIGHTS = 3  # the weights and Adam's two moments


@dataclass(frozen=True)
class AlignResult:
    """Where a job left what. `results` and `report` are None for a job without evaluation."""

    output_dir: Path
    model: Path
    steps: dict[str, Path]
    manifest: Path
    results: Path | None
    report: Path | None


def align(
    config: AlignConfig | Mapping[str, Any] | str | Path | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    *,
    progress: Progress | None = None,
    preset: str | None = None,
    title: str | None = None,
    command: str | None = None,
) -> AlignResult:
    """Run the whole job, or what is missing of it.

    `config` is an `AlignConfig`, a mapping, a YAML file or None for the defaults, `overrides` and
    `preset` as in `load_config`; the report's `title` is the method's name unless given. Each
    step's reference is the model that came out of the step before it. A stage that is finished
    with the same inputs is not done again, and an interrupted training goes on from its last
    checkpoint. Leaves in `output_dir`: `manifest.json`,
    `config.yaml`, `pairs/`, one folder for each step, `model/` (the last step's), and with an
    evaluation `results.json` and `report.html`. `command` is what the report says to type to do it
    again.

    Raises `InputError`, where possible before any work, `TrainingDiverged`, and what the machine
    raises; the manifest then says how the job ended.
    """
    checked = load_config(config, overrides, preset)
    with quiet_libraries():
        preferences = preferences_of(checked)
        given = given_data(checked, preferences)
        # A model that cannot be used is told before anything is written.
        loaded = load_model(checked.model, trust_remote_code=checked.trust_remote_code)
        job = Job(checked, progress or Silent(), title, command, (), preferences, given)
        job.start = loaded
        del loaded  # or its weights would stay in memory as long as the job runs
        with job.recorded():
            return _run(job, given)


def _run(job: Job, given: Mapping[Kind, Dataset]) -> AlignResult:
    trained = train_steps(job, given)
    final = _publish(job, trained.final)
    results = html = None
    if job.eval_prompts:
        scored, dial = evaluate(job, trained.models)
        results, html = report(job, trained.models, scored, dial, trained.logs, trained.held_out)
    return AlignResult(job.folder, final, trained.folders, job.manifest.path, results, html)


@dataclass(frozen=True)
class Trained:
    """What the steps of a job left: models by the names that results have, logs, folders.

    `held_out` has what `held_out_accuracy` found for the steps that have pairs for it.
    """

    models: dict[str, ModelOnDisk]
    final: ModelOnDisk
    logs: Training
    folders: dict[str, Path]
    held_out: dict[str, dict[str, float]]


def train_steps(job: Job, given: Mapping[Kind, Dataset]) -> Trained:
    """Do a job's steps: load the start model, get each step's pairs, train on them."""
    judged = held_out_data(job.config, job.preferences)
    start = _load(job, given, judged)
    train_scorers(job)
    training: Training = {}
    folders: dict[str, Path] = {}
    if job.config.sft is not None:
        start, training["sft"] = sft_step(job, start)
        folders["sft"] = Path(start.name)
    models = {"start": start}
    held_out: dict[str, dict[str, float]] = {}
    current, last_kind = start, None
    for name, kind in job.config.steps():
        if last_kind not in (None, kind):
            # `step1`, one end of the dial, is what the last run of one kind started from.
            models["step1"] = current
        if kind == "ppo":
            current, training[name] = ppo_step(
                job,
                name,
                current,
                lambda pairs, of, model: step_pairs(job, pairs, of, model, given),
            )
        else:
            data = step_rows(job, name, kind, current, given, job.config.tail_aim(name, kind))
            before = current
            if data is not None:
                current, training[name] = _train(job, name, kind, current, data)
            if data is not None and kind in judged:
                held_out[name] = _held_out(
                    job, name, kind, before, current, judged[kind], data.beta
                )
        folders[name] = Path(current.name)
        last_kind = kind
    if not training:
        raise InputError(f"{job.notes[-1]} So nothing is left to train: lower safe.limit.")
    models["final"] = current
    return Trained(models, current, training, folders, held_out)


def _load(job: Job, given: Mapping[Kind, Dataset], judged: Mapping[Kind, Dataset]) -> ModelOnDisk:
    job.progress.stage("load")
    if job.config.load_in_4bit:
        check_4bit()
    name, trust = job.config.model, job.config.trust_remote_code
    loaded = job.start or load_model(name, trust_remote_code=trust)
    job.start = None
    check_experts(loaded.model)
    template = job.chat_template
    if template is not None:
        loaded.tokenizer.chat_template = template
    start = ModelOnDisk(name, fingerprint(loaded.model), trust, template)
    about = {
        "source": name,
        "revision_or_hash": loaded.revision_or_hash,
        "fingerprint": start.weights,
        "notes": list(loaded.notes),
    }
    job.manifest.note("models", "start", about)
    if job.world is not None and not loaded.tokenizer.chat_template:
        raise InputError(
            f"model {name!r}: it has no chat template, which conversations need. Give "
            "chat_template, a file, or use data of plain text with world: null."
        )
    machine.check_disk(job.folder, _disk_need(job, loaded.model))
    _check_fit(job, loaded, given, "data")
    _check_fit(job, loaded, judged, "eval_data")
    _check_prompts(job, loaded)
    job.progress.done()
    return start


def _check_fit(job: Job, loaded: LoadedModel, given: Mapping[Kind, Dataset], field: str) -> None:
    """Find data that the model cannot take before the first step, not after it."""
    for kind, pairs in given.items():
        step = job.config.step(kind)
        if field == "eval_data":  # only the order counts
            step = for_order(step)
        # Neither beta nor what costs are charged is known yet.
        step = dataclasses.replace(step, max_gap=None)
        settings = training_config(step, beta=1.0, seed=0, bf16=False, folder=job.folder / kind)
        prepare_rows(pairs, f"{kind}.{field}", loaded.tokenizer, loaded.model, settings)


def _check_prompts(job: Job, loaded: LoadedModel) -> None:
    """Find prompts that the model cannot take before the first step."""
    if job.config.evaluation is not None:
        limit = job.config.evaluation.max_new_tokens
        checked_prompts(loaded.model, loaded.tokenizer, job.eval_prompts, limit)
    if job.config.sft is not None:
        checked_prompts(loaded.model, loaded.tokenizer, [d.prompt for d in demonstrations(job)], 0)
    if job.labelling is None:
        return
    for name, kind in job.config.steps():
        if kind in job.config.own_answers():
            sampling = job.config.step_sampling(kind)
            seed = stage_seed(job.config, f"pairs-{name}")
            asked = job.labelling.prompts("train", sampling.prompts, seed)
            checked_prompts(loaded.model, loaded.tokenizer, asked, sampling.max_new_tokens)


def _disk_need(job: Job, model: PreTrainedModel) -> int:
    """Bytes that the steps still to be made will take, less those that these have taken already."""
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    left = [(n, kind) for n, kind in job.config.steps() if not job.ledger.has(f"train-{n}")]
    sft = job.config.sft is not None and not job.ledger.has("train-sft")
    if not left and not sft:
        return 0
    kinds = [kind for _, kind in left]
    steps = [job.config.step(kind) for kind in kinds if kind != "ppo"]
    # The step ppo may leave two scorers beside its model.
    scorers = 2 * kinds.count("ppo") if job.config.scorers is not None else 0
    need = (len(kinds) + sft + scorers) * weights + 10_000_000
    if job.config.peft is None and any(step.save_strategy != "no" for step in steps):
        # A new checkpoint is complete before the one before it goes.
        need += 2 * _CHECKPOINT_WEIGHTS * weights
    if job.config.peft is None and "ppo" in kinds:
        need += 2 * 3 * _CHECKPOINT_WEIGHTS * weights  # of the policy and two critics
    return need - sum(machine.disk_used(job.folder / name) for name, _ in left)


def _train(
    job: Job, name: str, kind: Kind, current: ModelOnDisk, data: StepData
) -> tuple[ModelOnDisk, list[dict[str, Any]]]:
    """Train one step from `current`, which is also its reference; the result and its log."""
    config, step = job.config, job.config.step(kind)
    stage, folder = f"train-{name}", job.folder / name
    seed = job.seed(stage)
    inputs = {
        "model": current.weights,
        "data": data.sha256,
        "step": {
            k: v
            for k, v in vars(step).items()
            if k not in _SEPARATE
            and (k != "alpha" or "alpha" in own_parameters(step.loss_type))
            and (k != "loss_options" or v)
        },
        "beta": data.beta,
        "peft": config.peft and dataclasses.asdict(config.peft),
        "bf16": machine.use_bf16(step.bf16 if step.bf16 is not None else config.bf16),
        "seed": seed,
    }
    if config.load_in_4bit:
        inputs["load_in_4bit"] = True
    if others := outside([step.loss_type, get_risk(step.risk).name]):
        inputs["outside"] = others

    def work(key: str, update: Update) -> Outcome:
        outcome = train_step(
            current,
            data.rows,
            config,
            kind,
            beta=data.beta,
            folder=folder,
            key=key,
            seed=seed,
            update=update,
        )
        # A labelling scorer has learnt from more prompts, and what it knows of them is passed on.
        known = job.preferences.prompts("train") if job.preferences and step.own_answers else []
        note_prompts(folder / "model", current.name, prompts=[*data.rows["prompt"], *known])
        trained = load_model(folder / "model", trust_remote_code=current.trust_remote_code)
        outcome |= {"reference": current.weights, "fingerprint": fingerprint(trained.model)}
        if config.peft is None:
            remove(folder / "adapter")  # of other settings
        trees = [*job.ledger.files_in(folder / "adapter"), *job.ledger.files_in(folder / "model")]
        return outcome | {"files": [*trees, job.relative(folder / "log.json")]}

    outcome = job.stage(stage, inputs, work, folder / "checkpoints")
    about = {name: outcome[name] for name in ("reference", "fingerprint", "beta")}
    job.manifest.note("models", name, about)
    trained = dataclasses.replace(
        current, name=str(folder / "model"), weights=outcome["fingerprint"]
    )
    return trained, job.log(folder)


def _held_out(
    job: Job,
    name: str,
    kind: Kind,
    reference: ModelOnDisk,
    trained: ModelOnDisk,
    pairs: Dataset,
    beta: float,
) -> dict[str, float]:
    step, stage = job.config.step(kind), f"accuracy-{name}"
    seed, bf16 = job.seed(stage), machine.use_bf16(job.config.bf16)
    inputs = {
        "model": trained.weights,
        "reference": reference.weights,
        "data": content_hash(list(pairs)),
        "step": {
            key: value
            for key, value in vars(step).items()
            if key in {*_EVALUATION, "loss_type", "risk", "alpha", "max_length"}
        },
        "beta": beta,
        "bf16": bf16,
        "seed": seed,
    }

    def work(key: str, update: Update) -> Outcome:
        found = held_out_accuracy(
            trained.load(),
            reference.load(),
            pairs,
            step,
            beta=beta,
            seed=seed,
            bf16=bf16,
            folder=job.folder / name,
            update=update,
        )
        return {"found": found}

    found: dict[str, float] = job.stage(stage, inputs, work)["found"]
    return found


def _publish(job: Job, final: ModelOnDisk) -> Path:
    """Put the last step's model where people look for it."""
    target = job.folder / "model"

    def work(key: str, update: Update) -> Outcome:
        with new_folder(target) as temporary:
            for path in Path(final.name).iterdir():
                link_or_copy(path, temporary / path.name)
        return {"files": job.ledger.files_in(target)}

    job.stage("model", {"model": final.weights, "from": final.name}, work)
    return target
