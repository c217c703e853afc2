"""What is to be compared: a job's configuration and its group `compare`, cell by cell, checked."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from riskalign.errors import FieldError, InputError
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.parse import flat, load_config, override_items, placed, read_document
from riskalign.pipeline.presets import preset_names, preset_text
from riskalign.settings import LISTED, Flag, Seed, Words, known, parse, settings

Preset = Annotated[Words, known(preset_text)]
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
    seeds: Annotated[tuple[Seed, ...], LISTED, Field(min_length=1)] = (0,)
    own: Presets = ("rsa", "rsa-p", "rsa-tail", "rsa-rounds", "rsa-answers")
    settings: dict[Preset, dict[str, Any]] = field(default_factory=dict)
    grid: dict[str, Any] = field(default_factory=dict)
    keep_models: Flag = False

    def __post_init__(self) -> None:
        """Refuse a grid without lists of values."""
        for preset in preset_names():
            lists = isinstance(self.grid.get(preset, {}), dict) and self.varied(preset).values()
            if lists is False or not all(isinstance(values, list) and values for values in lists):
                raise FieldError("grid", "expected a list of values under each field's name")

    def varied(self, preset: str) -> dict[str, Any]:
        """The values of fields that vary for a preset: for all presets, and over them its own."""
        shared = {name: self.grid[name] for name in self.grid if name not in preset_names()}
        return {**shared, **self.grid.get(preset, {})}

    def methods(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Name, preset and own fields of every method."""
        for preset in dict.fromkeys(self.presets):
            varied = self.varied(preset)
            for values in itertools.product(*varied.values()):
                point = dict(zip(varied, values, strict=True))
                label = ",".join(f"{key.rpartition('.')[2]}={point[key]}" for key in point)
                name = f"{preset}@{label}" if label else preset
                yield name, preset, dict(flat(self.settings.get(preset, {}))) | point


@settings
class _Group:
    compare: Settings


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
    group = {} if group is None else group
    shared = list(override_items(overrides))
    with placed(document.where):
        if not isinstance(group, dict):
            raise FieldError("compare", f"expected fields, found {group!r}")
        group = group | ({"presets": presets} if presets else {})
        group = group | ({"seeds": seeds} if seeds else {})
        settings = parse(_Group, {"compare": group}).compare
        _check_overrides(settings, {name for name, _ in shared})
    folder = Path(load_config(document, shared).output_dir).expanduser()
    cells = {}
    for seed, (name, preset, fields) in itertools.product(settings.seeds, settings.methods()):
        place = str(folder / "work" / f"seed{seed}" / file_name(name))
        own = [*fields.items(), *shared, ("seed", seed), ("output_dir", place)]
        cell = load_config(document, own, preset)
        if (cell.world is None and cell.data is None) or cell.evaluation is None:
            raise InputError(
                f"compare: {name} needs a world, or data, and an evaluation; neither may be null"
            )
        cells[name, seed] = cell
    return Plan(folder, settings, cells, command or "riskalign compare")


def file_name(method: str) -> str:
    """A method's name as that of one file: values in it may hold what leads elsewhere."""
    return re.sub(r"[%/\\\x00-\x1f]", lambda found: f"%{ord(found[0]):02X}", method)


def _check_overrides(settings: Settings, given: set[str]) -> None:
    """Refuse what would make a method's name or seed a lie."""
    varied = {name for preset in settings.presets for name in settings.varied(preset)}
    fixed = {name for fields in settings.settings.values() for name, _ in flat(fields)}
    for name in given & varied:
        raise FieldError("compare.grid", f"{name} is given as a flag as well; leave one out")
    for name in {"seed", "output_dir"} & {*varied, *fixed, *(given - {"output_dir"})}:
        raise FieldError("compare.seeds", f"{name} is set by the comparison; give compare.seeds")
