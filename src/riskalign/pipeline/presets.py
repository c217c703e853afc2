"""Methods by name: what `riskalign/presets` holds, laid over a job's own settings."""

from importlib.resources import files
from typing import Any

import yaml

from riskalign.errors import InputError

_SUFFIX = ".yaml"


def preset_names() -> list[str]:
    """The methods there are, in alphabetical order."""
    found = (entry.name for entry in files("riskalign.presets").iterdir())
    return sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX))


def preset_text(name: str) -> str:
    """A preset's YAML, with the comment that says what it is.

    Raises:
        InputError: no preset has this name.
    """
    if name not in preset_names():
        raise InputError(f"preset: {name!r} is not one of {', '.join(preset_names())}")
    return files("riskalign.presets").joinpath(name + _SUFFIX).read_text(encoding="utf-8")


def load_preset(name: str) -> dict[str, Any]:
    """The fields that a preset sets, as `load_config` takes them."""
    fields: dict[str, Any] = yaml.safe_load(preset_text(name))
    return fields


def laid_over(tree: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """A new tree with the fields of `tree`, except where `above` has its own."""
    merged = dict(tree)
    for key, value in above.items():
        own = merged.get(key)
        both = isinstance(own, dict) and isinstance(value, dict)
        merged[key] = laid_over(own, value) if both else value  # type: ignore[arg-type]
    return merged
