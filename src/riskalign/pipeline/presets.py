"""Methods by name: what `riskalign/presets` holds, laid over a job's own settings."""

import itertools
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

from riskalign.errors import InputError
from riskalign.losses import own_parameters
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.manifest import resolve
from riskalign.pipeline.methods import KINDS, METHODS, get_method, has_rows

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


def display_name(preset: str) -> str:
    """What a preset's method is called: the words before the colon of its comment."""
    return preset_text(preset).lstrip("# ").partition(":")[0]


def method_name(config: AlignConfig) -> str:
    """What a job's method is called, by its settings, whoever made them.

    A job that has all that makes a preset has its name; another is described by its steps, as "DPO
    on helpful pairs, then RSA2 (cvar:0.99) on safe pairs".
    """
    settings = resolve(config) | {"order": [kind for _, kind in config.steps()]}
    for name in preset_names():
        fields = {"merges": [], **load_preset(name)}
        if all(
            _as_in(settings[key], value) for key, value in fields.items() if _counts(config, key)
        ):
            return display_name(name)
    words = []
    for kind, rounds in itertools.groupby(settings["order"]):
        n, step = len(list(rounds)), settings.get(kind, {})
        loss = str(step["loss_type"]) if has_rows(kind) else get_method(kind).title
        risk = f" ({step['risk']})" if loss.startswith("rsa") else ""
        answers = f" for {step['answer_risk']} of answers" if step.get("answer_risk") else ""
        pairs = f"{risk}{answers} on {kind} {step['rows']}" if has_rows(kind) else ""
        name = loss.upper() if has_rows(kind) else loss
        words.append(f"{name}{pairs}" + (f" in {n} rounds" if n > 1 else ""))
    return ", then ".join(words) + (", averaged" if config.merges else "")


def _counts(config: AlignConfig, field: str) -> bool:
    """Whether a job does what this field of a preset is about."""
    return field not in (*KINDS, *METHODS) or field in [kind for _, kind in config.steps()]


def _as_in(own: Any, preset: Any) -> bool:
    """Whether a job's value is the preset's; of a step, every field of the preset that acts."""
    if not isinstance(preset, Mapping):
        return bool(own == preset)
    loss = own.get("loss_type", "")
    acts = {"risk": loss.startswith("rsa"), "alpha": bool(loss) and "alpha" in own_parameters(loss)}
    # Which answers are safe is a world's matter; whether it is asked is the method's.
    asked, wanted = (step.get("safe_cost") is not None for step in (own, preset))
    acts["safe_cost"] = False
    return asked == wanted and all(
        _as_in(own[key], value) for key, value in preset.items() if acts.get(key, True)
    )


def laid_over(tree: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """A new tree with the fields of `tree`, except where `above` has its own."""
    merged = dict(tree)
    for key, value in above.items():
        own = merged.get(key)
        both = isinstance(own, dict) and isinstance(value, dict)
        merged[key] = laid_over(own, value) if both else value  # type: ignore[arg-type]
    return merged
