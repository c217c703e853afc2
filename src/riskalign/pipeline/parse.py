"""From YAML, mappings and dotted overrides to an `AlignConfig`; errors say file, line and field."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from riskalign import settings
from riskalign.errors import FieldError, InputError
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.presets import laid_over, load_preset
from riskalign.pipeline.settings import SamplingConfig

T = TypeVar("T")
Tree = dict[str, Any]
Where = dict[str, str]  # dotted field -> "config.yaml, line 3: "

_LARGEST = 1_000_000  # bytes of a file
_DEEPEST = 20  # groups and lists within one another
_ALIASES = 20


class _NotPlain(Exception):  # noqa: N818 - it grows into an InputError
    """What a text holds that no configuration needs."""


@dataclasses.dataclass(frozen=True)
class Document:
    """A file's fields, and where each stands."""

    tree: Tree
    where: Where


def load_config(
    source: AlignConfig | Document | Mapping[str, Any] | str | Path | None = None,
    overrides: Mapping[str, Any] | Iterable[str | tuple[str, Any]] = (),
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
    tree.pop("compare", None)  # for `load_plan`
    if preset is not None:
        fields = load_preset(preset)
        tree = laid_over(tree, fields)
        _locate(fields, "", f"preset {preset}: ", where)
    for name, value in _override_items(overrides):
        _set(tree, name, value, where)
    for kind in ("helpful", "safe"):
        _inherit_sampling(tree.get(kind), tree.get("sampling"))
    try:
        return settings.parse(AlignConfig, tree)
    except FieldError as error:
        raise FieldError(error.field, error.problem, _place(error.field, where)) from None


def load_settings(cls: type[T], overrides: Iterable[str]) -> T:
    """A flat settings dataclass from `["field=value"]`, as `load_config` reads overrides."""
    where: Where = {}
    tree: Tree = {}
    for name, value in _override_items(overrides):
        _set(tree, name, value, where)
    return settings.parse(cls, tree)


def _inherit_sampling(step: Any, shared: Any) -> None:
    if isinstance(step, dict) and isinstance(step.get("sampling"), dict):
        # Unknown names in the job's sampling are reported there, not in the step.
        known = {field.name for field in dataclasses.fields(SamplingConfig)}
        inherited = shared if isinstance(shared, dict) else {}
        step["sampling"] = {k: v for k, v in inherited.items() if k in known} | step["sampling"]


def read_document(source: Mapping[str, Any] | str | Path | None) -> Document:
    """A YAML file with its lines, or fields that stand nowhere."""
    where: Where = {}
    if isinstance(source, str | Path):
        return Document(read_yaml(Path(source), where), where)
    return Document(dict(source or {}), where)


def read_yaml(path: Path, where: Where) -> Tree:
    """The fields in a YAML file; notes in `where` at which line each stands.

    Raises `InputError` naming file and line.
    """
    try:
        if (size := path.stat().st_size) > _LARGEST:
            raise InputError(f"config {path}: {size} bytes are no configuration (at most 1 MB).")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"config {path}: no such file.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"config {path}: not UTF-8 (byte {error.start}).") from error
    except OSError as error:
        raise InputError(f"config {path}: cannot be read: {error.strerror}.") from error
    try:
        _refuse_structure(text)
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise InputError(f"{path}, line 1: expected fields such as 'model: …' at the top.")
        return _mapping(root, "", path, loader, where)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}, line {line}: not valid YAML: {error.problem}.") from error
    except (yaml.YAMLError, _NotPlain) as error:
        raise InputError(f"{path}: not valid YAML: {error}.") from error


def _refuse_structure(text: str) -> None:
    """Refuse what a configuration has no use for and parsing would take long for, or break at."""
    depth, aliases = 0, 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        # Parts that repeat parts that repeat parts grow by a power of their number.
        aliases += isinstance(event, yaml.AliasEvent)
        if aliases > _ALIASES:
            raise _NotPlain(f"line {_line(event)} repeats yet another part (*name); write it out")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise _NotPlain(f"line {_line(event)} is nested too deeply")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _mapping(
    node: yaml.MappingNode, prefix: str, path: Path, loader: yaml.SafeLoader, where: Where
) -> Tree:
    tree: Tree = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = str(key_node.value)
        name = f"{prefix}{key}"
        if key in tree:
            raise InputError(f"{path}, line {line}: {name}: given a second time.")
        where[name] = f"{path}, line {line}: "
        if isinstance(value_node, yaml.MappingNode):
            tree[key] = _mapping(value_node, f"{name}.", path, loader, where)
        else:
            try:
                tree[key] = loader.construct_object(value_node, deep=True)
            except (ValueError, OverflowError) as error:  # a date or number that is none
                raise InputError(f"{where[name]}{name}: cannot be read: {error}.") from error
    return tree


def _locate(tree: Tree, prefix: str, place: str, where: Where) -> None:
    for key, value in tree.items():
        where[f"{prefix}{key}"] = place
        if isinstance(value, dict):
            _locate(value, f"{prefix}{key}.", place, where)


def _plain(mapping: Mapping[str, Any]) -> Tree:
    return {
        str(key): _plain(value) if isinstance(value, Mapping) else value
        for key, value in mapping.items()
    }


def _override_items(
    overrides: Mapping[str, Any] | Iterable[str | tuple[str, Any]],
) -> Iterable[tuple[str, Any]]:
    for text in overrides.items() if isinstance(overrides, Mapping) else overrides:
        if isinstance(text, tuple):
            yield text
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(
                f"override {text!r}: write field=value, for example safe.learning_rate=1e-5."
            )
        try:
            _refuse_structure(value)
            yield name.strip(), yaml.safe_load(value)
        except (yaml.YAMLError, _NotPlain, ValueError, OverflowError) as error:
            raise InputError(f"override {text!r}: the value is not valid YAML.") from error


def _set(tree: Tree, name: str, value: Any, where: Where) -> None:
    *parents, last = name.split(".")
    for i, parent in enumerate(parents):
        if tree.get(parent) is None:
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise FieldError(".".join(parents[: i + 1]), "has no fields of its own", "override: ")
    tree[last] = _plain(value) if isinstance(value, Mapping) else value
    where[name] = "override: "


def _place(name: str, where: Where) -> str:
    """Where the field, else the nearest group around it, was written."""
    while name:
        if name in where:
            return where[name]
        name = name.rpartition(".")[0]
    return ""
