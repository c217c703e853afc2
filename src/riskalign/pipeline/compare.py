"""Methods by the same hands: presets x seeds on one job's model, data and world, cell by cell."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from riskalign import __version__
from riskalign.data import Preferences
from riskalign.evaluation import (
    METRICS,
    Bootstrap,
    Cell,
    ScoredAnswer,
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
    cell_key,
    cell_settings,
    changed_code,
    code_of_cell,
    finished_cell,
)
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.evaluate import evaluate
from riskalign.pipeline.given import given_data, held_out_data
from riskalign.pipeline.job import Job
from riskalign.pipeline.judged import preferences_of
from riskalign.pipeline.manifest import now
from riskalign.pipeline.measure import read_scored
from riskalign.pipeline.outputs import inputs_of, outputs_of
from riskalign.pipeline.plan import Plan, file_name
from riskalign.pipeline.progress import Progress, Silent, quiet_libraries
from riskalign.pipeline.run import train_steps
from riskalign.pipeline.settings import Kind
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


def run_plan(
    plan: Plan, *, progress: Progress | None = None, redo_stale: bool = False
) -> CompareResult:
    """Run every cell that is not finished, then compare: `compare.json` and `compare.html`.

    A finished cell is one file in `cells/`; it is made again only if its settings, its data or its
    start model changed. One that other code made stays, and the comparison says so, unless
    `redo_stale`. Within a seed, what cells have in common is done once. A run that was stopped goes
    on where it was. Others may work in the same folder at the same time, on other seeds.
    """
    seeds = list(dict.fromkeys(seed for _, seed in plan.cells))
    folders = [f"work/seed{seed}/{file_name(name)}" for name, seed in plan.cells]
    outputs = Outputs(["compare.json", "compare.html"], (), folders)
    for config in plan.cells.values():  # all, before the first one's work
        check_outputs(plan.folder, outputs, inputs_of(config))
        check_outputs(config.output_dir, outputs_of(config), inputs_of(config))
    parts = [f"-seed{seed}" for seed in seeds]
    with quiet_libraries():
        inputs = _read(plan)  # what cannot be used is told before anything is written
        with hold(plan.folder, outputs, parts=parts):
            machine.check_folder(plan.folder)
            cells = _cells(plan, seeds, inputs, progress or Silent(), redo_stale)
            return write_results(plan, cells)


@dataclass(frozen=True)
class _Inputs:
    """What cells are made from: judged answers by their source, rows by cell, and cells' keys."""

    read: Mapping[Any, Preferences | None]
    given: Mapping[tuple[str, int], Mapping[Kind, Dataset]]
    keys: Mapping[tuple[str, int], str]


def _read(plan: Plan) -> _Inputs:
    # Cells differ in their steps, hardly in their data, which are read once.
    read = {config.data: preferences_of(config) for config in plan.cells.values()}
    given = {name: given_data(config, read[config.data]) for name, config in plan.cells.items()}
    weights: dict[str, str] = {}
    keys = {}
    for cell, config in plan.cells.items():
        if config.model not in weights:
            loaded = load_model(config.model, trust_remote_code=config.trust_remote_code)
            weights[config.model] = fingerprint(loaded.model)
        own = read[config.data]
        held_out = held_out_data(config, own)
        keys[cell] = cell_key(config, given[cell], held_out, weights[config.model], own)
    return _Inputs(read, given, keys)


def _cells(
    plan: Plan, seeds: Sequence[int], inputs: _Inputs, told: Progress, redo_stale: bool
) -> list[dict[str, Any]]:
    """All cells, those that are not finished done; a seed's models go when it is."""
    finished: dict[tuple[str, int], dict[str, Any]] = {}
    for cell, config in plan.cells.items():
        done = finished_cell(_path(plan, *cell), inputs.keys[cell], config)
        if done is not None and not (redo_stale and changed_code(done) != []):
            finished[cell] = done
    to_make = [f"cells/{_path(plan, *cell).name}" for cell in plan.cells if cell not in finished]
    check_outputs(plan.folder, Outputs(to_make))
    cells: list[dict[str, Any]] = []
    for seed in seeds:
        names = [name for name, other in plan.cells if other == seed]
        for name in names:
            cell, config = (name, seed), plan.cells[name, seed]
            if cell in finished:
                told.stage(f"{name} · seed {seed} · cell")
                told.done("done before" + _by_whom(changed_code(finished[cell])))
                cells.append(finished[cell])
                continue
            siblings = [
                Path(plan.cells[other, seed].output_dir) for other in names if other != name
            ]
            given, own, key = inputs.given[cell], inputs.read[config.data], inputs.keys[cell]
            cells.append(_cell(plan, name, seed, given, own, key, siblings, told))
        if not plan.settings.keep_models:
            # Other methods' work, of another run in this folder, stays.
            for name in names:
                remove_made(plan.cells[name, seed].output_dir)
            with contextlib.suppress(OSError):
                (plan.folder / "work" / f"seed{seed}").rmdir()
    return cells


def _path(plan: Plan, name: str, seed: int) -> Path:
    return plan.folder / "cells" / f"{file_name(name)}-seed{seed}.json"


def _by_whom(changed: Sequence[str] | None) -> str:
    if changed is None:
        return ", made by unknown code"
    return f", made by other code ({', '.join(changed)})" if changed else ""


def _cell(
    plan: Plan,
    name: str,
    seed: int,
    given: Mapping[Kind, Dataset],
    preferences: Preferences | None,
    key: str,
    siblings: Sequence[Path],
    progress: Progress,
) -> dict[str, Any]:
    config = plan.cells[name, seed]
    told = _Prefixed(progress, f"{name} · seed {seed} · ")
    job = Job(config, told, f"{name}, seed {seed}", plan.command, siblings, preferences, given)
    with job.recorded():
        trained = train_steps(job, given)
        scored, dial = evaluate(job, trained.models)
    files = dict(scored)
    files |= {f"dial-{w:g}": file for w, file in dial.items() if file not in scored.values()}
    cell = {
        "schema": 1,
        "key": key,
        "method": name,
        "seed": seed,
        "created": now(),
        "settings": cell_settings(config),
        "versions": machine.versions(),
        "commit": machine.commit(),
        "code": code_of_cell(job),
        "budget": _budget(job, config),
        "held_out": trained.held_out,
        "notes": job.notes,
        "points": {point: to_columns(read_scored(file)) for point, file in files.items()},
    }
    write_text(_path(plan, name, seed), json.dumps(cell) + "\n")
    return cell


def _budget(job: Job, config: AlignConfig) -> dict[str, float]:
    stages = {
        name: outcome
        for name, outcome in job.manifest.content["stages"].items()
        if name.startswith(_TRAINING)
    }
    found = {"updates": 0.0, "examples": 0.0, "sampled_tokens": 0.0}
    for name, kind in config.steps():
        if (outcome := stages.get(f"train-{name}")) is None:
            continue  # its limit was kept before it
        found["updates"] += outcome["steps"]
        if kind == "ppo":
            found["examples"] += outcome["answers"] * config.ppo.num_ppo_epochs
            found["sampled_tokens"] += outcome["tokens"]
            continue
        step = config.step(kind)
        batch = step.per_device_train_batch_size * step.gradient_accumulation_steps
        found["examples"] += outcome["steps"] * batch
    for outcome in stages.values():
        found["sampled_tokens"] += outcome.get("counts", {}).get("tokens", 0)
    found["seconds"] = sum(outcome["seconds"] for outcome in stages.values())
    found["peak_megabytes"] = max(outcome["peak_megabytes"] for outcome in stages.values())
    return found


def write_results(plan: Plan, cells: Sequence[Mapping[str, Any]]) -> CompareResult:
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
        for cell in cells
    ]
    own = [
        name
        for name in dict.fromkeys(name for name, _ in plan.cells)
        if name.partition("@")[0] in plan.settings.own
    ]
    own_metrics = get_metrics(evaluation.metrics)
    boot = Bootstrap(evaluation.n_boot, 0, evaluation.confidence)
    first: list[ScoredAnswer] = list(measured[0].points["start"])
    prompts = len({answer.prompt_id for answer in first})
    results = plan.folder / "compare.json"
    content = {
        "schema": 1,
        "created": now(),
        "riskalign_version": __version__,
        "title": f"{len({name for name, _ in plan.cells})} methods compared",
        "model": config.model,
        "world": config.world if config.data is None else config.data.path,
        "confidence": evaluation.confidence,
        "n_prompts": prompts,
        "answers_per_prompt": evaluation.answers_per_prompt,
        **compare_cells(
            measured,
            own=own,
            n_boot=evaluation.n_boot,
            confidence=evaluation.confidence,
            metrics={**METRICS, **own_metrics},
            max_cost=None if config.world is None else max_cost_of(get_world(config.world)),
        ),
        "ratios": [
            dataclasses.asdict(ratio) for ratio in ratios_of_all(measured, own, _LEVELS, boot)
        ],
        **({"metrics": [metric.words() for metric in own_metrics.values()]} if own_metrics else {}),
        "other_code": _other_code(cells),
        "settings": {cell["method"]: cell["settings"] for cell in cells},
        "reproduce": {
            "command": plan.command,
            "versions": cells[0]["versions"],
            "commits": sorted({str(cell["commit"]) for cell in cells}),
        },
    }
    report = plan.folder / "compare.html"
    write_comparison(content, results, report)
    return CompareResult(plan.folder, results, report)


def _other_code(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By method how many cells there are, and how many of them other or unknown code made."""
    found: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(cell["method"] for cell in cells):
        own = [cell for cell in cells if cell["method"] == method]
        changed = [changed_code(cell) for cell in own]
        if any(rooms != [] for rooms in changed):
            found[method] = {
                "cells": len(own),
                "other": sum(bool(rooms) for rooms in changed),
                "unknown": changed.count(None),
                "rooms": list(dict.fromkeys(room for rooms in changed for room in rooms or ())),
            }
    return found


class _Prefixed:
    """A `Progress` that puts the cell before each stage's name."""

    def __init__(self, progress: Progress, prefix: str) -> None:
        self._progress, self._prefix = progress, prefix

    def stage(self, name: str, total: int | None = None) -> None:
        self._progress.stage(self._prefix + name, total)

    def update(self, n: int, note: str = "", total: int | None = None) -> None:
        self._progress.update(n, note, total)

    def done(self, note: str = "") -> None:
        self._progress.done(note)
