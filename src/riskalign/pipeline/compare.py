"""Methods by the same hands: presets x seeds on one job's model, data and world, cell by cell."""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from riskalign import __version__
from riskalign.atomic import write_text
from riskalign.environments import get_world, max_cost_of
from riskalign.errors import InputError
from riskalign.evaluation import Cell, ScoredAnswer, compare_cells, from_columns, to_columns
from riskalign.evaluation.comparison_report import write_comparison
from riskalign.pipeline import machine
from riskalign.pipeline.config import AlignConfig, FieldError
from riskalign.pipeline.evaluate import evaluate
from riskalign.pipeline.job import Job
from riskalign.pipeline.ledger import content_hash
from riskalign.pipeline.manifest import now, resolve
from riskalign.pipeline.measure import read_scored
from riskalign.pipeline.parse import load_config, read_yaml
from riskalign.pipeline.presets import preset_names
from riskalign.pipeline.progress import Progress, Silent, quiet_libraries
from riskalign.pipeline.run import given_data, train_steps

#: Stages that a method needs to be trained; the others measure it.
_TRAINING = ("pairs-", "scorer-", "train-")


@dataclass(frozen=True)
class Settings:
    """The group `compare` of a configuration file.

    `settings` holds fields of single presets, such as `{"sacpo": {"safe.learning_rate": 1e-4}}`.
    `grid` runs every preset with each combination of its values, `{"lambda_": [0.5, 2]}` for
    instance, as methods of names such as `sacpo@lambda_=0.5`. `own` names the presets that the
    others are held against; weights are removed once a seed's cells are measured, unless
    `keep_models`.
    """

    presets: tuple[str, ...] = ("dpo-helpful", "dpo-safe", "sacpo", "p-sacpo", "rsa", "rsa-tail")
    seeds: tuple[int, ...] = (0,)
    own: tuple[str, ...] = ("rsa", "rsa-p", "rsa-tail", "rsa-rounds")
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    keep_models: bool = False


@dataclass(frozen=True)
class Plan:
    """What is to be compared; every cell's configuration is checked already."""

    folder: Path
    settings: Settings
    cells: dict[tuple[str, int], AlignConfig]
    command: str


@dataclass(frozen=True)
class CompareResult:
    """Where a comparison left what."""

    output_dir: Path
    results: Path
    report: Path


def load_plan(
    source: str | Path | Mapping[str, Any] | None,
    overrides: Iterable[str] = (),
    *,
    presets: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    command: str | None = None,
) -> Plan:
    """Read a job's configuration and its group `compare`, and make each cell's configuration.

    The job's fields are the same for all; over them lie the preset's, over these the preset's own
    `settings`, then `overrides`. `presets` and `seeds` replace the group's.

    Raises `InputError` for whatever `load_config` refuses, an unknown preset or field of the
    group, no world, or no evaluation.
    """
    where: dict[str, str] = {}
    named = isinstance(source, str | Path)
    tree = read_yaml(Path(source), where) if named else dict(source or {})  # type: ignore[arg-type]
    group = dict(tree.get("compare") or {})
    group |= {"presets": list(presets)} if presets else {}
    group |= {"seeds": list(seeds)} if seeds else {}
    try:
        settings = _settings(group)
    except FieldError as error:
        raise FieldError(error.field, error.problem, where.get(error.field, "")) from None
    shared = list(overrides)
    job = load_config(source, shared)
    if job.world is None or job.evaluation is None:
        raise InputError("compare: needs a world and an evaluation; neither may be null")
    folder = Path(job.output_dir).expanduser()
    cells = {}
    for seed in dict.fromkeys(settings.seeds):
        for name, preset, fields in _methods(settings):
            own = [f"{key}={json.dumps(value)}" for key, value in fields.items()]
            place = folder / "work" / f"seed{seed}" / name
            cells[name, seed] = load_config(
                source, [*own, *shared, f"seed={seed}", f"output_dir={place}"], preset
            )
    return Plan(folder, settings, cells, command or "riskalign compare")


def _settings(group: Any) -> Settings:
    if not isinstance(group, dict):
        raise FieldError("compare", f"expected fields, found {group!r}")
    known = {entry.name for entry in dataclasses.fields(Settings)}
    for key in group:
        if key not in known:
            raise FieldError(f"compare.{key}", f"no such field; there are {', '.join(known)}")
    lists = {
        key: tuple(group[key] if isinstance(group[key], list | tuple) else [group[key]])
        for key in ("presets", "seeds", "own")
        if key in group
    }
    for seed in lists.get("seeds", ()):
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise FieldError("compare.seeds", f"{seed!r} is not a whole number")
    own = group.get("settings", {})
    if not isinstance(own, dict) or not all(isinstance(fields, dict) for fields in own.values()):
        raise FieldError("compare.settings", "expected a preset's fields under its name")
    names = [*lists.get("presets", ()), *own]
    for name in names:
        if name not in preset_names():
            raise FieldError(
                "compare.presets", f"{name!r} is not one of {', '.join(preset_names())}"
            )
    for key in ("presets", "seeds"):
        if key in lists and not lists[key]:
            raise FieldError(f"compare.{key}", "is empty; name at least one")
    grid = group.get("grid", {})
    if not isinstance(grid, dict) or not all(isinstance(v, list | tuple) for v in grid.values()):
        raise FieldError("compare.grid", "expected a list of values under each field's name")
    return Settings(**group | lists)


def _methods(settings: Settings) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, preset and own fields of every method."""
    for preset in dict.fromkeys(settings.presets):
        own = dict(settings.settings.get(preset, {}))
        for values in itertools.product(*settings.grid.values()):
            point = dict(zip(settings.grid, values, strict=True))
            label = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in point.items())
            yield f"{preset}@{label}" if label else preset, preset, own | point


def run_plan(plan: Plan, *, progress: Progress | None = None) -> CompareResult:
    """Run every cell that is not finished, then compare: `compare.json` and `compare.html`.

    A finished cell is one file in `cells/`; it is made again only if its settings, the world or
    riskalign's version changed. Within a seed, what cells have in common is done once. A run that
    was stopped goes on where it was.
    """
    told = progress or Silent()
    machine.check_folder(plan.folder)
    with quiet_libraries():
        given = {name: given_data(config) for name, config in plan.cells.items()}
        cells: list[dict[str, Any]] = []
        for seed in dict.fromkeys(seed for _, seed in plan.cells):
            names = [name for name, other in plan.cells if other == seed]
            for name in names:
                siblings = [Path(plan.cells[other, seed].output_dir) for other in names]
                cells.append(_cell(plan, name, seed, given[name, seed], siblings, told))
            if not plan.settings.keep_models:
                shutil.rmtree(plan.folder / "work" / f"seed{seed}", ignore_errors=True)
    return write_results(plan, cells)


def _cell(
    plan: Plan, name: str, seed: int, given: Any, siblings: Sequence[Path], progress: Progress
) -> dict[str, Any]:
    config = plan.cells[name, seed]
    path = plan.folder / "cells" / f"{name}-seed{seed}.json"
    told = _Prefixed(progress, f"{name} · seed {seed} · ")
    own = Path(config.output_dir)
    job = Job(config, told, f"{name}, seed {seed}", plan.command, [s for s in siblings if s != own])
    settings = {key: value for key, value in resolve(config).items() if key != "output_dir"}
    data = {kind: content_hash(list(rows)) for kind, rows in given.items()}
    key = content_hash([__version__, settings, job.world_identity(), data])
    done = _finished(path, key)
    if done is not None:
        told.stage("cell")
        told.done("done before")
        return done
    with job.recorded():
        trained = train_steps(job, given)
        scored, dial = evaluate(job, trained.models)
    last = "rsa" if "rsa" in scored else "step1"
    files = {"final" if point == last else point: file for point, file in scored.items()}
    files |= {f"dial-{w:g}": file for w, file in dial.items() if file not in scored.values()}
    cell = {
        "schema": 1,
        "key": key,
        "method": name,
        "seed": seed,
        "created": now(),
        "settings": settings,
        "versions": machine.versions(),
        "commit": machine.commit(),
        "budget": _budget(job, config),
        "points": {point: to_columns(read_scored(file)) for point, file in files.items()},
    }
    write_text(path, json.dumps(cell) + "\n")
    return cell


def _finished(path: Path, key: str) -> dict[str, Any] | None:
    try:
        cell: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return cell if cell.get("key") == key else None


def _budget(job: Job, config: AlignConfig) -> dict[str, float]:
    stages = {
        name: outcome
        for name, outcome in job.manifest.content["stages"].items()
        if name.startswith(_TRAINING)
    }
    found = {"updates": 0.0, "examples": 0.0, "sampled_tokens": 0.0}
    for name, kind in config.steps():
        outcome = stages[f"train-{name}"]
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
    world = config.world
    assert world is not None
    measured = [
        Cell(
            cell["method"],
            cell["seed"],
            {point: from_columns(columns) for point, columns in cell["points"].items()},
            cell["budget"],
        )
        for cell in cells
    ]
    first: list[ScoredAnswer] = list(measured[0].points["start"])
    prompts = len({answer.prompt_id for answer in first})
    results = plan.folder / "compare.json"
    content = {
        "schema": 1,
        "created": now(),
        "riskalign_version": __version__,
        "title": f"{len({name for name, _ in plan.cells})} methods compared",
        "model": config.model,
        "world": world,
        "confidence": evaluation.confidence,
        "n_prompts": prompts,
        "answers_per_prompt": evaluation.answers_per_prompt,
        **compare_cells(
            measured,
            own=[
                name
                for name in dict.fromkeys(name for name, _ in plan.cells)
                if name.partition("@")[0] in plan.settings.own
            ],
            n_boot=evaluation.n_boot,
            confidence=evaluation.confidence,
            max_cost=max_cost_of(get_world(world)),
        ),
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
