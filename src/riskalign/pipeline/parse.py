"""From YAML, mappings and dotted overrides to an `AlignConfig`; errors say file, line and field."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from riskalign import settings
from riskalign.errors import FieldError, InputError
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.presets import load_preset

T = TypeVar("T")
Tree = dict[str, Any]
Where = dict[str, str]  # dotted field -> "config.yaml, line 3: "
Overrides = Mapping[str, Any] | Iterable[str | tuple[str, Any]]

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
    document = source if isinstance(source, Document) else read_document(source)
    tree, where = _plain(document.tree), dict(document.where)
    tree.pop("compare", None)
    fields = flat(load_preset(preset)) if preset is not None else ()
    _lay_over(tree, fields, f"preset {preset}: ", where)
    _lay_over(tree, override_items(overrides), "override: ", where)
    for step in (tree.get("helpful"), tree.get("safe")):
        own, shared = (isinstance(g, dict) and g.get("sampling") for g in (step, tree))
        if isinstance(own, dict) and isinstance(shared, dict):
            step["sampling"] = shared | own
    with placed(where):
        return settings.parse(AlignConfig, tree)


def load_settings(cls: type[T], overrides: Iterable[str]) -> T:
    """A flat settings dataclass from `["field=value"]`, as `load_config` reads overrides."""
    tree: Tree = {}
    _lay_over(tree, override_items(overrides), "", {})
    return settings.parse(cls, tree)


def read_document(source: Mapping[str, Any] | str | Path | None) -> Document:
    """A YAML file with its lines, or fields that stand nowhere.

    Raises `InputError` naming file and line.
    """
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
        tree = {} if root is None else _mapping(root, "", path, loader, where)
        return Document(tree, where)
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


def flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields by their dotted names, so that what lies below keeps a group's other fields."""
    for key, value in fields.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def override_items(overrides: Overrides) -> Iterator[tuple[str, Any]]:
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
def placed(where: Where) -> Iterator[None]:
    """Add to a `FieldError` where the field, else the nearest group around it, was written."""
    try:
        yield
    except FieldError as error:
        name = error.field
        while name not in where and name:
            name = name.rpartition(".")[0]
        raise FieldError(error.field, error.problem, where.get(name, "")) from None
