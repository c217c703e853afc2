"""The whole job: load, pairs, train, pairs, train, evaluate, dial, report; each stage once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riskalign.errors import InputError
from riskalign.files.atomic import link_or_copy, new_folder
from riskalign.files.ranks import refuse_several
from riskalign.models import LoadedModel, check_4bit, fingerprint, load_model
from riskalign.models.folders import resolve_folder
from riskalign.models.loading import check_targets
from riskalign.models.sampling import checked_prompts
from riskalign.pipeline import machine
from riskalign.pipeline.certify import certify_job
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.evaluate import evaluate, report
from riskalign.pipeline.fit import Log
from riskalign.pipeline.given import read_data
from riskalign.pipeline.held_out import accuracy_stage
from riskalign.pipeline.job import Job, ModelOnDisk
from riskalign.pipeline.ledger import Outcome, stage_seed
from riskalign.pipeline.methods import get_method, has_rows
from riskalign.pipeline.multipliers import train_multipliers
from riskalign.pipeline.own_scorers import check_given_judges, train_scorers
from riskalign.pipeline.parse import load_config
from riskalign.pipeline.progress import Progress, Update, quiet_libraries
from riskalign.pipeline.sft import demonstrations, sft_step
from riskalign.pipeline.step_data import step_rows
from riskalign.pipeline.steps import MethodStep, Trained, tokenize_given, train_step
from riskalign.training.config import Optimisation
from riskalign.training.preparation import check_experts


@dataclass(frozen=True)
class AlignResult:
    """Where a job left what. `results` and `report` are None for a job without evaluation.

    `certificate` is the content of certificate.json, None where the job has no budget, `baked` that
    of certificate-baked.json, None where its budget does not ask for one.
    """

    output_dir: Path
    model: Path
    steps: dict[str, Path]
    manifest: Path
    results: Path | None
    report: Path | None
    certificate: dict[str, Any] | None = None
    baked: dict[str, Any] | None = None


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
    refuse_several()
    checked = load_config(config, overrides, preset)
    with quiet_libraries():
        job = Job(checked, read_data(checked), progress, title, command)
        start = check_start(job)
        with job.recorded():
            for sentence in _processes(job):
                job.note(sentence)
            trained = train_steps(job, start)
            final = _publish(job, trained.models["final"])
            results = html = certificate = baked = None
            if job.eval_prompts:
                first = trained.models.get("step1", trained.models["start"])
                safer = train_multipliers(job, first)
                certificate = certify_job(job, {**trained.models, **safer})
                baked = certify_job(job, trained.models, baked=True)
                chosen = [(each or {}).get("certified") for each in (certificate, baked)]
                scored, dial = evaluate(job, trained.models, *chosen, safer=safer)
                results, html = report(job, trained, scored, dial, certificate)
        paths = trained.folders, job.manifest.path, results, html
        return AlignResult(job.folder, final, *paths, certificate, baked)


@dataclass(frozen=True)
class Start:
    """A start model that can do what its job asks, and what the manifest says of it."""

    model: ModelOnDisk
    about: Mapping[str, Any]


def check_start(job: Job) -> Start:
    """Load the start model and refuse what it cannot do for the job, before anything is written."""
    job.progress.stage("load")
    if job.config.load_in_4bit:
        check_4bit()
    name, trust, peft = job.config.model, job.config.trust_remote_code, job.config.peft
    if peft is not None:
        check_targets(resolve_folder(name, trust)[0], peft.target_modules)
    loaded = load_model(name, trust_remote_code=trust)
    check_experts(loaded.model)
    if job.chat_template is not None:
        loaded.tokenizer.chat_template = job.chat_template
    if job.world is not None and not loaded.tokenizer.chat_template:
        raise InputError(
            f"model {name!r}: it has no chat template, which conversations need. Give "
            "chat_template, a file, or use data of plain text with world: null."
        )
    tokenize_given(job, loaded)
    _check_prompts(job, loaded)
    check_given_judges(job)
    model = ModelOnDisk(name, fingerprint(loaded.model), trust, job.chat_template)
    about = {
        "source": name,
        "revision_or_hash": loaded.revision_or_hash,
        "fingerprint": model.weights,
        "notes": list(loaded.notes),
    }
    parameters = sum(each.numel() for each in loaded.model.parameters())
    machine.check_disk(job.folder, _disk_need(job, parameters))
    job.progress.done(" ".join(_processes(job)))
    return Start(model, about)


def train_steps(job: Job, start: Start) -> Trained:
    """Do a job's steps: get each step's pairs, train on them."""
    current = start.model
    job.manifest.note("models", "start", start.about)
    train_scorers(job)
    logs: dict[str, Log] = {}
    if job.config.sft is not None:
        current, logs["sft"] = sft_step(job, current)
    trained = Trained({"start": current}, logs)
    if job.config.sft is not None:
        trained.folders["sft"] = Path(current.name)
    last_kind = None
    for name, kind in job.config.steps():
        if last_kind not in (None, kind):
            # `step1`, one end of the dial, is what the last run of one kind started from.
            trained.models["step1"] = current
        if not has_rows(kind):
            current, logs[name] = get_method(kind).run(MethodStep(job, name, kind, current))
        elif data := step_rows(job, name, kind, current, job.config.tail_aim(name, kind)):
            before = current
            current, logs[name] = train_step(job, name, kind, before, data)
            if kind in job.data.held_out:
                found = accuracy_stage(job, name, kind, before, current, data.beta)
                trained.held_out[name] = found
        trained.folders[name] = Path(current.name)
        last_kind = kind
    if not logs:
        raise InputError(f"{job.notes[-1]} So nothing is left to train: lower safe.limit.")
    trained.models["final"] = current
    return trained


def _processes(job: Job) -> list[str]:
    """What there is to say of the devices that are used, and of batches over several processes."""
    n = 1 if job.launch is None else job.launch.processes
    here = n if job.launch is None else n // job.launch.machines
    said = [idle] if (idle := machine.idle_gpus(here)) is not None else []
    kinds = dict.fromkeys(kind for _, kind in job.config.steps() if has_rows(kind))
    steps: dict[str, Optimisation] = {}
    if job.config.sft is not None:
        steps["sft"] = job.config.sft
    steps |= {kind: job.config.step(kind) for kind in kinds}
    if job.launch is None or not steps:
        return said
    batches = []
    for kind, step in steps.items():
        each, more = step.per_device_train_batch_size, step.gradient_accumulation_steps
        batches.append(f"{each} x {n} processes x {more} = {each * n * more} rows ({kind})")
    return [*said, f"An optimizer step takes {', '.join(batches)}."]


def _check_prompts(job: Job, loaded: LoadedModel) -> None:
    """Find prompts that the model cannot take before the first step."""
    asked = []
    if job.config.evaluation is not None:
        asked.append((job.eval_prompts, job.config.evaluation.max_new_tokens))
    if job.config.sft is not None:
        asked.append(([shown.prompt for shown in demonstrations(job)], 0))
    for name, kind in job.config.steps():
        if job.labelling is not None and kind in job.config.own_answers() and has_rows(kind):
            sampling = job.config.step_sampling(kind)
            seed = stage_seed(job.config, f"pairs-{name}")
            prompts = job.labelling.prompts("train", sampling.prompts, seed)
            asked.append((prompts, sampling.max_new_tokens))
    for prompts, new_tokens in asked:
        checked_prompts(loaded.model, loaded.tokenizer, prompts, new_tokens)


def _disk_need(job: Job, parameters: int) -> int:
    """Bytes that the steps still to be made will take, less those that these have taken already."""
    config = job.config
    again = [(n, "safe") for own in config.multiplied().values() for n in own.values()]
    steps = [*config.steps(), *again]
    left = [(n, kind) for n, kind in steps if not job.ledger.has(f"train-{n}")]
    sft = config.sft is not None and not job.ledger.has("train-sft")
    if not left and not sft:
        return 0
    models, checkpoints = len(left) + sft, [0]  # in sizes of the model
    for _, kind in left:
        if not has_rows(kind):
            beside, meanwhile = get_method(kind).disk(config)
            models += beside
            checkpoints.append(meanwhile)
    if config.peft is None and any(
        has_rows(kind) and config.step(kind).save_strategy != "no" for _, kind in left
    ):
        # Weights and Adam's two moments; a new one is complete before the one before it goes.
        models += 2 * 3
    need = (models + max(checkpoints)) * 4 * parameters + 10_000_000
    return need - sum(machine.disk_used(job.folder / name) for name, _ in left)


def _publish(job: Job, final: ModelOnDisk) -> Path:
    """Put the last step's model where people look for it."""
    target = job.folder / "model"

    def work(key: str, update: Update) -> Outcome:
        with new_folder(target) as temporary:
            for path in Path(final.name).iterdir():
                link_or_copy(path, temporary / path.name)
        return {"files": [target]}

    job.stage("model", {"model": final.weights, "from": final.name}, work)
    return target
