"""Methods by name: what `riskalign/presets` holds, laid over a job's own settings."""

import itertools
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

from riskalign.errors import InputError
from riskalign.losses import own_parameters
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.ledger import resolve
from riskalign.pipeline.methods import KINDS, METHODS, get_method, has_rows

_FOLDER = files("riskalign.presets")


def preset_names() -> list[str]:
    """The methods there are, in alphabetical order."""
    names = (entry.name for entry in _FOLDER.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """A preset's YAML, with the comment that says what it is.

    Raises:
        InputError: no preset has this name.
    """
    if name not in preset_names():
        raise InputError(f"{name!r} is not one of the presets: {', '.join(preset_names())}")
    return _FOLDER.joinpath(f"{name}.yaml").read_text(encoding="utf-8")


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
    order = [kind for _, kind in config.steps()]
    settings = resolve(config) | {"order": order}
    unused = {*KINDS, *METHODS} - set(order)
    for name in preset_names():
        fields = {"merges": [], **load_preset(name)}
        if all(_as_in(settings[key], fields[key]) for key in fields if key not in unused):
            return display_name(name)
    words = []
    for kind, rounds in itertools.groupby(order):
        n, step = len(list(rounds)), settings.get(kind, {})
        name = step["loss_type"].upper() if has_rows(kind) else get_method(kind).title
        if has_rows(kind):
            risk = f" ({step['risk']})" if name.startswith("RSA") else ""
            answers = f" for {step['answer_risk']} of answers" if step["answer_risk"] else ""
            name += f"{risk}{answers} on {kind} {step['rows']}"
        words.append(f"{name} in {n} rounds" if n > 1 else name)
    return ", then ".join(words) + (", averaged" if config.merges else "")


def _as_in(value: Any, preset: Any) -> bool:
    """Whether a job's value is the preset's; of a step, every field of the preset that acts."""
    if not isinstance(preset, Mapping):
        return bool(value == preset)
    loss = value.get("loss_type", "")
    acts = {"risk": loss.startswith("rsa"), "alpha": bool(loss) and "alpha" in own_parameters(loss)}
    # Which answers are safe is a world's matter; whether it is asked is the method's.
    asked, wanted = (step.get("safe_cost") is not None for step in (value, preset))
    acts["safe_cost"] = False
    return asked == wanted and all(
        _as_in(value[key], preset[key]) for key in preset if acts.get(key, True)
    )
