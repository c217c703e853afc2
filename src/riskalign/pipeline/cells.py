"""The file of a comparison's cell: what it holds, from what it was made and by which code."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from riskalign.files.folder import from_json
from riskalign.losses import own_parameters
from riskalign.pipeline import machine
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.given import JobData
from riskalign.pipeline.job import Job, world_identity
from riskalign.pipeline.judged import encoder_identity, judged_identity
from riskalign.pipeline.launch import LaunchConfig
from riskalign.pipeline.ledger import content_hash, resolve, rows_hash
from riskalign.pipeline.methods import KINDS, METHODS, get_method, has_rows
from riskalign.pipeline.sources import code_of, others
from riskalign.plugin import outside
from riskalign.risk import get_risk
from riskalign.worlds import get_world

#: What does not count of a group of settings: where files lie, since what they hold does, and what
#: acts on what is made of the cells.
_UNCOUNTED: Mapping[str, tuple[str, ...]] = {
    "data": ("path", "safe_path"),
    "launch": tuple(field.name for field in dataclasses.fields(LaunchConfig)),
    "scoring": ("reward", "cost", "prompts", "encoder"),
    "evaluation": ("n_boot", "confidence", "examples", "metrics", "sensitivity", "specificity"),
    "helpful": ("data", "eval_data"),
    "safe": ("data", "eval_data"),
}


class CellFile(TypedDict):
    """A cell as its file has it; the first ones had no `code`.

    `code` has the hashes of the rooms that made it, and of a user's own world; `points` has the
    answers of each point by columns.
    """

    schema: int
    key: str
    method: str
    seed: int
    created: str
    settings: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    code: NotRequired[dict[str, str]]
    budget: dict[str, float]
    held_out: dict[str, dict[str, float]]
    notes: list[str]
    points: dict[str, dict[str, list[Any]]]


def cell_key(config: AlignConfig, data: JobData, weights: str) -> str:
    """What a cell is asked for: its settings that count, and what the files that they name hold."""
    files: dict[str, Any] = {
        "data": {kind: rows_hash(rows) for kind, rows in data.given.items()},
        "held_out": {
            kind: rows_hash(rows)
            for kind, rows in data.held_out.items()
            if config.step(kind).eval_data is not None
        },
    }
    if config.chat_template is not None:
        template = Path(config.chat_template).read_text(encoding="utf-8")
        files["chat_template"] = content_hash(template)
    if config.launch is not None:
        files["launch"] = config.launch.resolved().identity()
    steps = (config.sft, *(config.step(kind) for kind in config.pair_kinds()))
    if engines := [step.engine_contents() for step in steps if step and step.engine_files()]:
        files["engines"] = engines
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
