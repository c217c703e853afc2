"""What is to be compared: a job's configuration and its group `compare`, cell by cell, checked."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from riskalign.errors import FieldError, InputError
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.parse import load_config, read_document
from riskalign.pipeline.presets import preset_names
from riskalign.settings import LISTED, Flag, Whole, Words, known, parse, settings


def _known(name: str) -> None:
    if name not in preset_names():
        raise InputError(f"{name!r} is not one of {', '.join(preset_names())}")


Preset = Annotated[Words, known(_known)]
Presets = Annotated[tuple[Preset, ...], LISTED]


@settings
class Settings:
    """The group `compare` of a configuration file.

    `settings` holds fields of single presets, such as `{"sacpo": {"safe.learning_rate": 1e-4}}`.
    `grid` runs every preset with each combination of its values, `{"lambda_": [0.5, 2]}` for
    instance, as methods of names such as `sacpo@lambda_=0.5`; values under a preset's name,
    `{"sacpo": {"lambda_": [0.5, 2]}}`, are for that preset alone. `own` names the presets that the
    others are held against; weights are removed once a seed's cells are measured, unless
    `keep_models`.
    """

    presets: Annotated[Presets, Field(min_length=1)] = (
        "dpo-helpful",
        "dpo-safe",
        "sacpo",
        "p-sacpo",
        "rsa",
        "rsa-tail",
    )
    seeds: Annotated[tuple[Whole, ...], LISTED, Field(min_length=1)] = (0,)
    own: Presets = ("rsa", "rsa-p", "rsa-tail", "rsa-rounds", "rsa-answers")
    settings: dict[Preset, dict[str, Any]] = field(default_factory=dict)
    grid: dict[str, Any] = field(default_factory=dict)
    keep_models: Flag = False


@dataclass(frozen=True)
class Plan:
    """What is to be compared; every cell's configuration is checked already."""

    folder: Path
    settings: Settings
    cells: dict[tuple[str, int], AlignConfig]
    command: str


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
    document = read_document(source)
    group = document.tree.get("compare")
    try:
        settings = _settings({} if group is None else group, presets, seeds)
        shared = list(overrides)
        _check_overrides(settings, shared)
        job = load_config(document, shared)
        folder = Path(job.output_dir).expanduser()
        cells = {}
        for seed in dict.fromkeys(settings.seeds):
            for name, preset, fields in _methods(settings):
                place = str(folder / "work" / f"seed{seed}" / file_name(name))
                own: list[str | tuple[str, Any]] = [
                    *fields.items(),
                    *shared,
                    ("seed", seed),
                    ("output_dir", place),
                ]
                cell = load_config(document, own, preset)
                if (cell.world is None and cell.data is None) or cell.evaluation is None:
                    raise InputError(
                        f"compare: {name} needs a world, or data, and an evaluation; neither may "
                        "be null"
                    )
                cells[name, seed] = cell
    except FieldError as error:
        if not error.field.startswith("compare"):
            raise
        raise FieldError(error.field, error.problem, document.where.get(error.field, "")) from None
    return Plan(folder, settings, cells, command or "riskalign compare")


def file_name(method: str) -> str:
    """A method's name as that of one file: values in it may hold what leads elsewhere."""
    return re.sub(r"[%/\\\x00-\x1f]", lambda found: f"%{ord(found[0]):02X}", method)


def _settings(group: Any, presets: Sequence[str] | None, seeds: Sequence[int] | None) -> Settings:
    if not isinstance(group, dict):
        raise FieldError("compare", f"expected fields, found {group!r}")
    group = dict(group)
    group |= {"presets": list(presets)} if presets else {}
    group |= {"seeds": list(seeds)} if seeds else {}
    try:
        found = parse(Settings, group)
    except FieldError as error:
        raise FieldError(f"compare.{error.field}", error.problem) from None
    known_presets = preset_names()
    single = [values for name, values in found.grid.items() if name in known_presets]
    shared = {name: values for name, values in found.grid.items() if name not in known_presets}
    for values in [*single, shared]:
        if not isinstance(values, dict) or not all(
            isinstance(v, list) and v for v in values.values()
        ):
            raise FieldError("compare.grid", "expected a list of values under each field's name")
    flat = {name: dict(_flat(fields)) for name, fields in found.settings.items()}
    return dataclasses.replace(found, settings=flat)


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields by their dotted names, so that a group keeps what the preset says of it."""
    for key, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | bool | list | dict | None):
            yield f"{prefix}{key}", value
        else:
            raise FieldError("compare.settings", f"{prefix}{key} cannot be {value!r}")


def _check_overrides(settings: Settings, overrides: Sequence[str]) -> None:
    """Refuse what would make a method's name or seed a lie."""
    given = {text.partition("=")[0].strip() for text in overrides}
    fields = {name for preset in settings.presets for name in _grid(settings, preset)}
    for name in given & fields:
        raise FieldError("compare.grid", f"{name} is given as a flag as well; leave one out")
    for name in {"seed", "output_dir"} & {*fields, *(given - {"output_dir"})}:
        raise FieldError("compare.seeds", f"{name} is set by the comparison; give compare.seeds")


def _grid(settings: Settings, preset: str) -> dict[str, Sequence[Any]]:
    """The fields that vary for a preset: those of all presets, and over them its own."""
    named = preset_names()
    shared = {name: values for name, values in settings.grid.items() if name not in named}
    return shared | dict(settings.grid.get(preset, {}))


def _methods(settings: Settings) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, preset and own fields of every method."""
    for preset in dict.fromkeys(settings.presets):
        own = dict(settings.settings.get(preset, {}))
        grid = _grid(settings, preset)
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            label = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in point.items())
            yield f"{preset}@{label}" if label else preset, preset, own | point
