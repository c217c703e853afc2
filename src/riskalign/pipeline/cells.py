"""Finished cells of a comparison: what one is made from, and whether it is that of today."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from riskalign.data import Preferences
from riskalign.losses import own_parameters
from riskalign.pipeline import machine
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.job import Job, chat_template_of, world_identity
from riskalign.pipeline.judged import judged_identity
from riskalign.pipeline.ledger import content_hash
from riskalign.pipeline.manifest import resolve
from riskalign.pipeline.scoring import encoder_identity
from riskalign.pipeline.settings import Kind
from riskalign.pipeline.sources import code_of, others
from riskalign.plugin import outside
from riskalign.risk import get_risk
from riskalign.worlds import World, get_world

# Settings of the evaluation that act on what is made of the cells.
_LATER = ("n_boot", "confidence", "examples", "metrics")


def cell_key(
    config: AlignConfig,
    given: Mapping[Kind, Dataset],
    held_out: Mapping[Kind, Dataset],
    weights: str,
    preferences: Preferences | None,
) -> str:
    """What a cell is asked for: its settings that count, and what the files that they name hold."""
    files: dict[str, Any] = {
        "data": {kind: content_hash(list(rows)) for kind, rows in given.items()},
        "held_out": {
            kind: content_hash(list(rows))
            for kind, rows in held_out.items()
            if config.step(kind).eval_data is not None
        },
    }
    if config.chat_template is not None:
        files["chat_template"] = content_hash(chat_template_of(config))
    if config.scoring is not None:
        files["encoder"] = encoder_identity(config.scoring.encoder)
    if preferences is not None:
        files["world"] = judged_identity(config, preferences)
    if others := _outside(config):
        files["outside"] = others
    settings = _counted(cell_settings(config), config)
    return content_hash([settings, weights, machine.use_bf16(config.bf16), files])


def _outside(config: AlignConfig) -> dict[str, str]:
    """Losses and risk measures of a user's own, by what they are computed with."""
    kinds = [kind for _, kind in config.steps() if kind != "ppo"]
    steps = [config.step(kind) for kind in kinds]
    risks = [risk for step in steps for risk in (step.risk, step.answer_risk) if risk is not None]
    if config.evaluation is not None:
        risks.append(config.evaluation.risk)
    return outside([*(step.loss_type for step in steps), *(get_risk(risk).name for risk in risks)])


def _counted(settings: Mapping[str, Any], config: AlignConfig) -> dict[str, Any]:
    """What counts of a cell's settings, as they were when it was made, for the job `config`.

    Settings that act on the comparison alone, or not at all with this method, do not count; nor
    do defaults, so that a setting new in riskalign leaves finished cells as they are.
    """
    found = dict(settings)
    found.pop("chat_template", None)  # what lies in files counts, not where they lie
    for group, names in (
        ("data", ("path", "safe_path")),
        ("scoring", ("reward", "cost", "prompts", "encoder")),
        ("evaluation", _LATER),
    ):
        if found.get(group) is not None:
            found[group] = {k: v for k, v in found[group].items() if k not in names}
    if "ppo" not in config.order:
        found.pop("ppo", None)
        found.pop("scorers", None)
    kinds: tuple[Kind, ...] = ("helpful", "safe")
    for kind in kinds:
        step = found.pop(kind)
        if kind not in config.pair_kinds():
            continue
        without = {"data", "eval_data"}
        if "alpha" not in own_parameters(step["loss_type"]):
            without.add("alpha")
        found[kind] = {k: v for k, v in step.items() if k not in without}
    return _beside(found, resolve(AlignConfig()))


def cell_settings(config: AlignConfig) -> dict[str, Any]:
    """A cell's resolved settings; where its job lies is none of them."""
    return {key: value for key, value in resolve(config).items() if key != "output_dir"}


def _beside(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not the defaults, group by group."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            found |= {name: inner} if (inner := _beside(value, default)) else {}
        elif value != default:
            found[name] = value
    return found


def finished_cell(path: Path, key: str, config: AlignConfig) -> dict[str, Any] | None:
    """The cell in a file, if it was made from what it is asked for.

    Of a cell without `code`, of before there was one, the settings can be told and no more.
    """
    try:
        cell: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if "code" in cell:
        return cell if cell["key"] == key else None
    then, today = (_counted(each, config) for each in (cell["settings"], cell_settings(config)))
    return cell if then == today else None


def code_of_cell(job: Job) -> dict[str, str]:
    """The code that made a cell: the rooms that its stages computed with, and a user's world."""
    found: dict[str, str] = {}
    for stage in job.manifest.content["stages"]:
        found |= code_of(stage)
    if job.preferences is None and not _built_in(job.world):
        found["world"] = content_hash(job.world_identity())
    return found


def changed_code(cell: Mapping[str, Any]) -> list[str] | None:
    """The rooms that have other code now than when the cell was made; None where none is known."""
    if "code" not in cell:
        return None
    rooms = dict(cell["code"])
    world, spec = rooms.pop("world", None), cell["settings"]["world"]
    found = others(rooms)
    if world is not None and world != content_hash(world_identity(spec, get_world(spec))):
        found.append("world")
    return found


def _built_in(world: World | None) -> bool:
    """Whether a world is among the rooms."""
    return type(world).__module__.startswith("riskalign.")
