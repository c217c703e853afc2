"""Methods under the same conditions: presets x seeds on one job's model, data and world."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riskalign import __version__
from riskalign.data import Preferences
from riskalign.evaluation import (
    METRICS,
    Bootstrap,
    Cell,
    compare_cells,
    from_columns,
    get_metrics,
    ratios_of_all,
    to_columns,
)
from riskalign.evaluation.comparison_report import write_comparison
from riskalign.files.atomic import write_text
from riskalign.files.folder import Outputs, check_outputs, from_json, hold, remove_made
from riskalign.losses import own_parameters
from riskalign.models import fingerprint, load_model
from riskalign.pipeline import machine
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.evaluate import evaluate
from riskalign.pipeline.given import JobData, read_data
from riskalign.pipeline.job import Job, inputs_of, outputs_of, world_identity
from riskalign.pipeline.judged import encoder_identity, judged_identity, preferences_of
from riskalign.pipeline.ledger import content_hash, now, resolve
from riskalign.pipeline.measure import read_scored
from riskalign.pipeline.methods import KINDS, METHODS, get_method, has_rows
from riskalign.pipeline.parse import Plan, file_name
from riskalign.pipeline.progress import Progress, Silent, quiet_libraries
from riskalign.pipeline.run import check_start, train_steps
from riskalign.pipeline.sources import code_of, others
from riskalign.plugin import outside
from riskalign.risk import get_risk
from riskalign.worlds import get_world, max_cost_of

CellFile = dict[str, Any]  # a cell as its file has it

#: Tails whose ratios at matched helpfulness are read off the frontiers.
_LEVELS = (0.95, 0.99)
#: Stages that a method needs to be trained; the others measure it.
_TRAINING = ("pairs-", "label-", "scorer-", "train-")

#: What does not count of a group of settings: where files lie, since what they hold does, and what
#: acts on what is made of the cells.
_UNCOUNTED: Mapping[str, tuple[str, ...]] = {
    "data": ("path", "safe_path"),
    "scoring": ("reward", "cost", "prompts", "encoder"),
    "evaluation": ("n_boot", "confidence", "examples", "metrics", "sensitivity", "specificity"),
    "helpful": ("data", "eval_data"),
    "safe": ("data", "eval_data"),
}


@dataclass(frozen=True)
class CompareResult:
    """Where a comparison left what."""

    output_dir: Path
    results: Path
    report: Path


@dataclass(frozen=True)
class _Asked:
    """A cell to make, or to find made: method, seed, settings, data and key."""

    name: str
    seed: int
    config: AlignConfig
    data: JobData
    key: str
    path: Path


def run_plan(
    plan: Plan, *, progress: Progress | None = None, redo_stale: bool = False
) -> CompareResult:
    """Run every cell that is not finished, then compare: `compare.json` and `compare.html`.

    A finished cell is one file in `cells/`; it is made again only if its settings, its data or its
    start model changed. One that other code made stays, and the comparison says so, unless
    `redo_stale`. Within a seed, what cells have in common is done once. A run that was stopped goes
    on where it was. Others may work in the same folder at the same time, on other seeds.
    """
    folders = [f"work/seed{seed}/{file_name(name)}" for name, seed in plan.cells]
    outputs = Outputs(["compare.json", "compare.html"], (), folders)
    for config in plan.cells.values():  # all, before the first one's work
        check_outputs(plan.folder, outputs, inputs_of(config))
        check_outputs(config.output_dir, outputs_of(config), inputs_of(config))
    with quiet_libraries():
        asked = _read(plan)  # what cannot be used is told before anything is written
        parts = list(dict.fromkeys(f"-seed{cell.seed}" for cell in asked))
        with hold(plan.folder, outputs, parts=parts):
            machine.check_folder(plan.folder)
            return write_results(plan, _cells(plan, asked, progress or Silent(), redo_stale))


def _read(plan: Plan) -> list[_Asked]:
    """The cells, seed by seed; judged answers and a method's data are read once."""
    read: dict[Any, Preferences | None] = {}
    data: dict[str, JobData] = {}
    weights: dict[str, str] = {}
    asked = []
    for (name, seed), config in plan.cells.items():
        if config.data not in read:
            read[config.data] = preferences_of(config)
        if name not in data:  # seeds change none of it
            data[name] = read_data(config, read[config.data])
        if config.model not in weights:
            loaded = load_model(config.model, trust_remote_code=config.trust_remote_code)
            weights[config.model] = fingerprint(loaded.model)
        key = cell_key(config, data[name], weights[config.model])
        path = plan.folder / "cells" / f"{file_name(name)}-seed{seed}.json"
        asked.append(_Asked(name, seed, config, data[name], key, path))
    return asked


def _cells(
    plan: Plan, asked: Sequence[_Asked], progress: Progress, redo_stale: bool
) -> list[CellFile]:
    """All cells, those that are not finished done; a seed's models go when it is."""
    finished: dict[Path, CellFile] = {}
    for each in asked:
        cell = finished_cell(each.path, each.key, each.config)
        if cell is not None and not (redo_stale and changed_code(cell) != []):
            finished[each.path] = cell
    to_make = [f"cells/{each.path.name}" for each in asked if each.path not in finished]
    check_outputs(plan.folder, Outputs(to_make))
    made: list[CellFile] = []
    for seed in dict.fromkeys(each.seed for each in asked):
        of_seed = [each for each in asked if each.seed == seed]
        for each in of_seed:
            told = _Prefixed(progress, f"{each.name} · seed {seed} · ")
            if (cell := finished.get(each.path)) is not None:
                told.stage("cell")
                told.done("done before" + _by_whom(changed_code(cell)))
            else:
                siblings = [Path(other.config.output_dir) for other in of_seed if other is not each]
                cell = _make(each, siblings, plan.command, told)
            made.append(cell)
        if not plan.settings.keep_models:
            # Other methods' work, of another run in this folder, stays.
            for each in of_seed:
                remove_made(each.config.output_dir)
            with contextlib.suppress(OSError):
                (plan.folder / "work" / f"seed{seed}").rmdir()
    return made


def _by_whom(changed: Sequence[str] | None) -> str:
    if changed is None:
        return ", made by unknown code"
    return f", made by other code ({', '.join(changed)})" if changed else ""


def _make(each: _Asked, siblings: Sequence[Path], command: str, progress: Progress) -> CellFile:
    title = f"{each.name}, seed {each.seed}"
    job = Job(each.config, each.data, progress, title, command, siblings)
    start = check_start(job)
    with job.recorded():
        trained = train_steps(job, start)
        scored, dial = evaluate(job, trained.models)
    files = dict(scored)
    files |= {f"dial-{w:g}": file for w, file in dial.items() if file not in scored.values()}
    cell = {
        "schema": 1,
        "key": each.key,
        "method": each.name,
        "seed": each.seed,
        "created": now(),
        "settings": cell_settings(each.config),
        "versions": machine.versions(),
        "commit": machine.commit(),
        "code": code_of_cell(job),
        "budget": _budget(job),
        "held_out": trained.held_out,
        "notes": job.notes,
        "points": {point: to_columns(read_scored(file)) for point, file in files.items()},
    }
    write_text(each.path, json.dumps(cell) + "\n")
    return cell


def _budget(job: Job) -> dict[str, float]:
    """What a method's training took; a step whose limit was kept before it took nothing."""
    stages = {k: outcome for k, outcome in job.stages.items() if k.startswith(_TRAINING)}
    steps = [stages[f"train-{name}"] for name, _ in job.config.steps() if f"train-{name}" in stages]
    spent = stages.values()
    tokens = [outcome.get("counts", outcome).get("tokens", 0) for outcome in spent]
    return {
        "updates": float(sum(step["steps"] for step in steps)),
        "examples": float(sum(step.get("examples", 0) for step in steps)),
        "sampled_tokens": float(sum(tokens)),
        "seconds": sum(outcome["seconds"] for outcome in spent),
        "peak_megabytes": max(outcome["peak_megabytes"] for outcome in spent),
    }


def write_results(plan: Plan, made: Sequence[CellFile]) -> CompareResult:
    """Compare finished cells, as their files hold them; write results and report."""
    config = next(iter(plan.cells.values()))
    evaluation = config.evaluation
    assert evaluation is not None
    measured = [
        Cell(
            cell["method"],
            cell["seed"],
            {point: from_columns(columns) for point, columns in cell["points"].items()},
            cell["budget"],
        )
        for cell in made
    ]
    names = list(dict.fromkeys(name for name, _ in plan.cells))
    own = [name for name in names if name.partition("@")[0] in plan.settings.own]
    own_metrics = get_metrics(evaluation.metrics)
    boot = Bootstrap(evaluation.n_boot, 0, evaluation.confidence)
    compared = compare_cells(
        measured,
        own=own,
        n_boot=evaluation.n_boot,
        confidence=evaluation.confidence,
        metrics={**METRICS, **own_metrics},
        max_cost=None if config.world is None else max_cost_of(get_world(config.world)),
    )
    ratios = ratios_of_all(measured, own, _LEVELS, boot)
    content = {
        "schema": 1,
        "created": now(),
        "riskalign_version": __version__,
        "title": f"{len(names)} methods compared",
        "model": config.model,
        "world": config.world if config.data is None else config.data.path,
        "confidence": evaluation.confidence,
        "n_prompts": len({answer.prompt_id for answer in measured[0].points["start"]}),
        "answers_per_prompt": evaluation.answers_per_prompt,
        **compared,
        "ratios": [dataclasses.asdict(ratio) for ratio in ratios],
        **({"metrics": [metric.words() for metric in own_metrics.values()]} if own_metrics else {}),
        "other_code": _other_code(made),
        "settings": {cell["method"]: cell["settings"] for cell in made},
        "reproduce": {
            "command": plan.command,
            "versions": made[0]["versions"],
            "commits": sorted({str(cell["commit"]) for cell in made}),
        },
    }
    results, report = plan.folder / "compare.json", plan.folder / "compare.html"
    write_comparison(content, results, report)
    return CompareResult(plan.folder, results, report)


def _other_code(made: Sequence[CellFile]) -> dict[str, dict[str, Any]]:
    """By method how many cells there are, and how many of them other or unknown code made."""
    by_method: dict[str, list[list[str] | None]] = {}
    for cell in made:
        by_method.setdefault(cell["method"], []).append(changed_code(cell))
    return {
        method: {
            "cells": len(changed),
            "other": sum(bool(rooms) for rooms in changed),
            "unknown": changed.count(None),
            "rooms": list(dict.fromkeys(room for rooms in changed for room in rooms or ())),
        }
        for method, changed in by_method.items()
        if any(rooms != [] for rooms in changed)
    }


class _Prefixed:
    """A `Progress` that puts the cell before each stage's name."""

    def __init__(self, progress: Progress, prefix: str) -> None:
        self._progress, self._prefix = progress, prefix
        self.update, self.done = progress.update, progress.done

    def stage(self, name: str, total: int | None = None) -> None:
        self._progress.stage(self._prefix + name, total)


def cell_key(config: AlignConfig, data: JobData, weights: str) -> str:
    """What a cell is asked for: its settings that count, and what the files that they name hold."""
    files: dict[str, Any] = {
        "data": {kind: content_hash(list(rows)) for kind, rows in data.given.items()},
        "held_out": {
            kind: content_hash(list(rows))
            for kind, rows in data.held_out.items()
            if config.step(kind).eval_data is not None
        },
    }
    if config.chat_template is not None:
        template = Path(config.chat_template).read_text(encoding="utf-8")
        files["chat_template"] = content_hash(template)
    if config.scoring is not None:
        files["encoder"] = encoder_identity(config.scoring.encoder)
    if data.preferences is not None:
        files["world"] = judged_identity(config, data.preferences)
    if code := _outside(config):
        files["outside"] = code
    settings = _counted(cell_settings(config), config)
    return content_hash([settings, weights, machine.use_bf16(config.bf16), files])


def _outside(config: AlignConfig) -> dict[str, str]:
    """Losses, risk measures and methods of a user's own, by what they are computed with."""
    steps = [config.step(kind) for _, kind in config.steps() if has_rows(kind)]
    risks = [risk for step in steps for risk in (step.risk, step.answer_risk) if risk is not None]
    if config.evaluation is not None:
        risks.append(config.evaluation.risk)
    losses = [step.loss_type for step in steps]
    return outside([*losses, *(get_risk(risk).name for risk in risks), *config.method_kinds()])


def _counted(settings: Mapping[str, Any], config: AlignConfig) -> dict[str, Any]:
    """What counts of a cell's settings, as they were when it was made, for the job `config`.

    Settings that act on the comparison alone, or not at all with this method, do not count; nor
    do defaults, so that a setting new in riskalign leaves finished cells as they are.
    """
    absent: set[str] = {"chat_template", *KINDS} - set(config.pair_kinds())
    for name in METHODS:
        if name not in config.order:
            absent.update(get_method(name).fields)
    counted = {}
    for name, value in settings.items():
        if name in absent:
            continue
        if name in _UNCOUNTED and value is not None:
            without = set(_UNCOUNTED[name])
            if name in KINDS and "alpha" not in own_parameters(value["loss_type"]):
                without.add("alpha")
            value = {k: v for k, v in value.items() if k not in without}
        counted[name] = value
    return _beside(counted, resolve(AlignConfig()))


def cell_settings(config: AlignConfig) -> dict[str, Any]:
    """A cell's resolved settings; where its job lies is none of them."""
    return {key: value for key, value in resolve(config).items() if key != "output_dir"}


def _beside(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not the defaults, group by group."""
    changed: dict[str, Any] = {}
    for name, value in settings.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            changed |= {name: inner} if (inner := _beside(value, default)) else {}
        elif value != default:
            changed[name] = value
    return changed


def finished_cell(path: Path, key: str, config: AlignConfig) -> CellFile | None:
    """The cell in a file, if it was made from what it is asked for.

    Of a cell without `code`, of before there was one, the settings can be told and no more.
    """
    try:
        cell: CellFile = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if "code" in cell:
        return cell if cell["key"] == key else None
    then, today = (_counted(each, config) for each in (cell["settings"], cell_settings(config)))
    return cell if then == today else None


def code_of_cell(job: Job) -> dict[str, str]:
    """The code that made a cell: the rooms that its stages computed with, and a user's world."""
    found: dict[str, str] = {}
    for stage in job.stages:
        found |= code_of(stage)
    world = getattr(job.world, "unguarded", job.world)
    if job.data.preferences is None and not type(world).__module__.startswith("riskalign."):
        found["world"] = content_hash(job.world_identity())
    return found


def changed_code(cell: CellFile) -> list[str] | None:
    """The rooms that have other code now than when the cell was made; None where none is known."""
    if "code" not in cell:
        return None
    rooms = dict(cell["code"])
    world, spec = rooms.pop("world", None), cell["settings"]["world"]
    changed = others(rooms)
    if world is not None and world != content_hash(world_identity(spec, get_world(spec))):
        changed.append("world")
    return changed
