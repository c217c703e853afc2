"""From YAML, mappings and dotted overrides to a job's configuration, or those of a comparison.

Errors say file, line and field.
"""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import yaml
from pydantic import Field

from riskalign.errors import FieldError, InputError
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.presets import load_preset, preset_names, preset_text
from riskalign.settings import LISTED, Flag, Seed, Words, known, parse, settings

T = TypeVar("T")
Tree = dict[str, Any]
Where = dict[str, str]  # dotted field -> "config.yaml, line 3: "
Overrides = Mapping[str, Any] | Iterable[str | tuple[str, Any]]
Preset = Annotated[Words, known(preset_text)]
Presets = Annotated[tuple[Preset, ...], LISTED]

_LARGEST = 1_000_000  # bytes of a file
_DEEPEST = 20  # groups and lists within one another
_ALIASES = 20


class Document(NamedTuple):
    """A file's fields, and where each stands."""

    tree: Tree
    where: Where


def load_config(
    source: AlignConfig | Document | Mapping[str, Any] | str | Path | None = None,
    overrides: Overrides = (),
    preset: str | None = None,
) -> AlignConfig:
    """A checked `AlignConfig` from a YAML file, a mapping, another config, or the defaults.

    The fields of `preset`, a method's name, replace those of the source. `overrides` go on top:
    `{"safe.learning_rate": 1e-5}`, such pairs, or `["safe.learning_rate=1e-5"]` with YAML values.
    Values are converted to the fields' types (`1e-5` in YAML is text until a field says that it is
    a number). A step's `sampling` takes what it does not name from the job's. A group `compare` is
    left to `load_plan`.

    Raises `InputError` naming file, line, field and remedy; for an unknown field the nearest
    valid one.
    """
    if isinstance(source, AlignConfig):
        source = dataclasses.asdict(source)
    document = source if isinstance(source, Document) else _read(source)
    tree, where = _plain(document.tree), dict(document.where)
    tree.pop("compare", None)
    fields = _flat(load_preset(preset)) if preset is not None else ()
    _lay_over(tree, fields, f"preset {preset}: ", where)
    _lay_over(tree, _pairs(overrides), "override: ", where)
    for step in (tree.get("helpful"), tree.get("safe")):
        own, shared = (isinstance(g, dict) and g.get("sampling") for g in (step, tree))
        if isinstance(own, dict) and isinstance(shared, dict):
            step["sampling"] = shared | own
    with _placed(where):
        return parse(AlignConfig, tree)


def load_settings(cls: type[T], overrides: Iterable[str]) -> T:
    """A flat settings dataclass from `["field=value"]`, as `load_config` reads overrides."""
    tree: Tree = {}
    _lay_over(tree, _pairs(overrides), "", {})
    return parse(cls, tree)


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
        *("dpo-helpful", "dpo-safe", "sacpo", "p-sacpo"),
        *("rsa", "rsa-tail"),
    )
    seeds: Annotated[tuple[Seed, ...], LISTED, Field(min_length=1)] = (0,)
    own: Presets = ("rsa", "rsa-p", "rsa-tail", "rsa-rounds", "rsa-answers")
    settings: dict[Preset, dict[str, Any]] = dataclasses.field(default_factory=dict)
    grid: dict[str, Any] = dataclasses.field(default_factory=dict)
    keep_models: Flag = False

    def __post_init__(self) -> None:
        """Refuse a grid without lists of values."""
        for preset in preset_names():
            if not isinstance(self.grid.get(preset, {}), dict) or not all(
                isinstance(values, list) and values for values in self.varied(preset).values()
            ):
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
                yield name, preset, dict(_flat(self.settings.get(preset, {}))) | point

    def refuse_overrides(self, given: set[str]) -> None:
        """Refuse what would make a method's name or seed a lie."""
        varied = {name for preset in self.presets for name in self.varied(preset)}
        fixed = {name for fields in self.settings.values() for name, _ in _flat(fields)}
        for name in given & varied:
            raise FieldError("compare.grid", f"{name} is given as a flag as well; leave one out")
        for name in {"seed", "output_dir"} & {*varied, *fixed, *(given - {"output_dir"})}:
            raise FieldError("compare.seeds", f"{name} is set by the comparison; leave it out")


@settings
class _Group:
    compare: Settings


@dataclasses.dataclass(frozen=True)
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
    presets: Sequence[str] | str | None = None,
    seeds: Sequence[int] | str | None = None,
    command: str | None = None,
) -> Plan:
    """Read a job's configuration and its group `compare`, and make each cell's configuration.

    The job's fields are the same for all; over them lie the preset's, over these the preset's own
    `settings`, then `overrides`. `presets` and `seeds` replace the group's, each a list or a
    text with commas.

    Raises `InputError` for whatever `load_config` refuses, an unknown preset or field of the
    group, no world, or no evaluation.
    """
    document, shared = _read(source), list(_pairs(overrides))
    group = document.tree.get("compare")
    with _placed(document.where):
        if not isinstance(group, dict | None):
            raise FieldError("compare", f"expected fields, found {group!r}")
        given = {"presets": presets, "seeds": seeds}
        group = {**(group or {}), **{name: given[name] for name in given if given[name]}}
        compared = parse(_Group, {"compare": group}).compare
        compared.refuse_overrides({name for name, _ in shared})
    folder = Path(load_config(document, shared).output_dir).expanduser()
    cells = {}
    for seed, (name, preset, fields) in itertools.product(compared.seeds, compared.methods()):
        place = str(folder / "work" / f"seed{seed}" / file_name(name))
        own = [*fields.items(), *shared, ("seed", seed), ("output_dir", place)]
        cell = cells[name, seed] = load_config(document, own, preset)
        if (cell.world is None and cell.data is None) or cell.evaluation is None:
            raise InputError(
                f"compare: {name} needs a world, or data, and an evaluation; neither may be null"
            )
        if cell.budget is not None:
            raise InputError("budget: compare certifies nothing. Add --budget null.")
    return Plan(folder, compared, cells, command or "riskalign compare")


def file_name(method: str) -> str:
    """A method's name as that of one file: values in it may hold what leads elsewhere."""
    return re.sub(r"[%/\\\x00-\x1f]", lambda found: f"%{ord(found[0]):02X}", method)


def _read(source: Mapping[str, Any] | str | Path | None) -> Document:
    """A YAML file with its lines, or fields that stand nowhere."""
    if not isinstance(source, str | Path):
        return Document(dict(source or {}), {})
    path, where = Path(source), Where()
    try:
        if (size := path.stat().st_size) > _LARGEST:
            raise InputError(f"config {path}: {size} bytes are no configuration (at most 1 MB).")
        text = path.read_text(encoding="utf-8")
        _refuse_structure(text)
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise InputError(f"{path}, line 1: expected fields such as 'model: …' at the top.")
        return Document(_mapping(root, "", path, loader, where) if root else {}, where)
    except UnicodeDecodeError as error:
        raise InputError(f"config {path}: not UTF-8 (byte {error.start}).") from error
    except OSError as error:
        raise InputError(f"config {path}: {str(error.strerror).lower()}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else path
        problem = getattr(error, "problem", None) or error
        raise InputError(f"{place}: not valid YAML: {problem}.") from error


def _refuse_structure(text: str) -> None:
    """Refuse what a configuration has no use for and parsing would take long for, or break at."""
    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        # Parts that repeat parts that repeat parts grow by a power of their number.
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if aliases > _ALIASES or depth > _DEEPEST:
            problem = "nested too deeply, or parts repeated (*name) too often; write them out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]


def _mapping(
    node: yaml.MappingNode, prefix: str, path: Path, loader: yaml.SafeLoader, where: Where
) -> Tree:
    tree: Tree = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        name, place = f"{prefix}{key}", f"{path}, line {key_node.start_mark.line + 1}: "
        if key in tree:
            raise InputError(f"{place}{name}: given a second time.")
        where[name] = place
        if isinstance(value_node, yaml.MappingNode):
            tree[key] = _mapping(value_node, f"{name}.", path, loader, where)
            continue
        try:
            tree[key] = loader.construct_object(value_node, deep=True)
        except (ValueError, OverflowError) as error:  # a date or number that is none
            raise InputError(f"{place}{name}: cannot be read: {error}.") from error
    return tree


def _plain(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {str(key): _plain(inner) for key, inner in value.items()}


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields by their dotted names, so that what lies below keeps a group's other fields."""
    for key, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _pairs(overrides: Overrides) -> Iterator[tuple[str, Any]]:
    """Overrides as pairs of a dotted name and a value."""
    for item in overrides.items() if isinstance(overrides, Mapping) else overrides:
        if isinstance(item, tuple):
            yield item
            continue
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise InputError(f"override {item!r}: write field=value, such as safe.beta=0.2.")
        try:
            _refuse_structure(value)
            yield name.strip(), yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            raise InputError(f"override {item!r}: the value is not valid YAML.") from error


def _lay_over(tree: Tree, items: Iterable[tuple[str, Any]], place: str, where: Where) -> None:
    for name, value in items:
        group, (*parents, last) = tree, name.split(".")
        for i, parent in enumerate(parents):
            if group.get(parent) is None:
                group[parent] = {}
            group = group[parent]
            if not isinstance(group, dict):
                raise FieldError(".".join(parents[: i + 1]), "has no fields of its own", place)
        group[last] = _plain(value)
        where[name] = place


@contextlib.contextmanager
def _placed(where: Where) -> Iterator[None]:
    """Add to a `FieldError` where the field, else the nearest group around it, was written."""
    try:
        yield
    except FieldError as error:
        name = error.field
        while name not in where and name:
            name = name.rpartition(".")[0]
        raise FieldError(error.field, error.problem, where.get(name, "")) from None
