"""Methods under the same conditions: presets x seeds on one job's model, data and world."""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
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
from riskalign.files.folder import Outputs, check_outputs, hold, remove_made
from riskalign.models import fingerprint, load_model
from riskalign.pipeline import machine
from riskalign.pipeline.cells import (
    CellFile,
    cell_key,
    cell_settings,
    changed_code,
    code_of_cell,
    finished_cell,
)
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.evaluate import evaluate
from riskalign.pipeline.given import JobData, read_data
from riskalign.pipeline.job import Job, inputs_of, outputs_of
from riskalign.pipeline.judged import preferences_of
from riskalign.pipeline.ledger import now
from riskalign.pipeline.measure import read_scored
from riskalign.pipeline.parse import Plan, file_name
from riskalign.pipeline.progress import Progress, Silent, quiet_libraries
from riskalign.pipeline.run import check_start, train_steps
from riskalign.worlds import get_world, max_cost_of

#: Tails whose ratios at matched helpfulness are read off the frontiers.
_LEVELS = (0.95, 0.99)
#: Stages that a method needs to be trained; the others measure it.
_TRAINING = ("pairs-", "label-", "scorer-", "train-")


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
    cell: CellFile = {
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
        "peak_megabytes": max(
            float(outcome.get("worker_peak_megabytes") or outcome["peak_megabytes"])
            for outcome in spent
        ),
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
