"""A step's rows: given ones, or sampled from the model that the step starts from."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from riskalign.data import is_grouped, load_groups, load_pairs
from riskalign.errors import LimitKept
from riskalign.files.atomic import write_json_lines
from riskalign.files.cache import file_sha256
from riskalign.pipeline import machine
from riskalign.pipeline.job import Job, ModelOnDisk
from riskalign.pipeline.ledger import Outcome, content_hash
from riskalign.pipeline.progress import Update
from riskalign.pipeline.sampled import sample_rows
from riskalign.pipeline.settings import Kind
from riskalign.pipeline.tail import TailAim, charged_rows, given_safe_pairs, tail_words
from riskalign.plugin import outside
from riskalign.risk import get_risk


@dataclass(frozen=True)
class StepData:
    """A step's rows, their hash, and the temperature that it trains at."""

    rows: Dataset
    sha256: str
    beta: float


def step_pairs(
    job: Job, name: str, kind: Kind, current: ModelOnDisk, given: Mapping[Kind, Dataset]
) -> tuple[Dataset, str]:
    """Rows for a step that has no use for temperatures and risks, and their hash."""
    data = step_rows(job, name, kind, current, given, None)
    assert data is not None  # only an aim can be kept already
    return data.rows, data.sha256


def step_rows(
    job: Job,
    name: str,
    kind: Kind,
    current: ModelOnDisk,
    given: Mapping[Kind, Dataset],
    aim: TailAim | None,
) -> StepData | None:
    """The step's rows, given or sampled from the model that the step starts from.

    With an `aim` for whole answers their scores are minus what its risk charges the costs; None
    where the sampled answers keep its limit already, so that there is nothing to learn.
    """
    beta = job.config.step_beta(kind)
    if kind in given:
        rows = given[kind]
        about: dict[str, Any] = {"source": job.config.step(kind).data, "pairs": len(rows)}
        if about["source"] is None and job.preferences is not None:
            about |= {"source": job.preferences.source, "counts": dict(job.preferences.counts)}
        if (rule := job.config.step(kind).safety_rule()) is not None:
            about |= given_safe_pairs(job.config.step(kind), job.preferences, rule)[1]
        if aim is not None:
            step = job.config.step(kind)
            rows, plan = charged_rows(
                rows, aim, about["source"], anchors=step.anchors, seed=job.seed(f"pairs-{name}")
            )
            beta = plan.beta
            about |= {"pairs": len(rows), "left_out_alike": about["pairs"] - len(rows)}
            job.note(tail_words(name, plan.summary, given=True))
            about["tail"] = plan.summary
        rows_hash = content_hash(list(rows))
        job.manifest.note("data", name, {**about, "sha256": rows_hash})
        return StepData(rows, rows_hash, beta)
    world = job.world if job.labelling is None else job.labelling
    assert world is not None
    identity = job.world_identity() if job.labelling is None else job.labelling.identity()
    stage, path = f"pairs-{name}", job.folder / "pairs" / f"{name}.jsonl"
    seed, sampling = job.seed(stage), job.config.step_sampling(kind)
    inputs = {
        "model": current.weights,
        "world": identity,
        "kind": kind,
        "sampling": dataclasses.asdict(sampling),
        "bf16": machine.use_bf16(job.config.bf16),
        "seed": seed,
    }
    step = job.config.step(kind)
    inputs |= {"rows": step.rows, "anchors": step.anchors}
    if aim is not None:
        inputs["aim"] = dataclasses.asdict(aim)
        if others := outside([get_risk(aim.risk).name]):
            inputs["outside"] = others
    if (rule := step.safety_rule()) is not None:
        inputs["rule"] = dataclasses.asdict(rule)

    def work(key: str, update: Update) -> Outcome:
        try:
            rows, counts, plan = sample_rows(
                world,
                current.load(),
                kind,
                sampling,
                seed=seed,
                bf16=job.config.bf16,
                update=update,
                rows=step.rows,
                anchors=step.anchors,
                aim=aim,
                rule=rule,
            )
        except LimitKept as kept:
            return {"kept": str(kept), "files": []}
        write_json_lines(path, rows)
        tail = {} if plan is None else {"tail": plan.summary}
        return {"counts": counts, "files": [job.relative(path)], **tail}

    outcome = job.stage(stage, inputs, work)
    if "kept" in outcome:
        job.note(f"Step {name}: {outcome['kept']}. The model passes on as it is.")
        return None
    about = {"source": str(path), "sha256": file_sha256(path), **outcome["counts"]}
    if "tail" in outcome:
        beta = outcome["tail"]["beta"]
        job.note(tail_words(name, outcome["tail"]))
        about["tail"] = outcome["tail"]
    job.manifest.note("data", name, about)
    rows = load_groups(str(path)) if is_grouped(str(path)) else load_pairs(path)
    return StepData(rows, about["sha256"], beta)
