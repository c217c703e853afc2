"""`results.json`: written whole, read back checked. The fields are described in docs/results.md."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError
from typing_extensions import NotRequired, TypedDict

from riskalign.errors import InputError
from riskalign.files.atomic import write_text

SCHEMA = 1

Finite = Annotated[float, Field(allow_inf_nan=False)]
Cost = Annotated[Finite, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class _Strict(TypedDict):
    """No text is taken for a number."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]


class _Ends(_Strict):
    value: Finite
    low: Finite | None
    high: Finite | None


def _ordered(ends: _Ends) -> _Ends:
    low, high = ends["low"], ends["high"]
    if low is not None and high is not None and low > high:
        raise PydanticCustomError("ends", f"low {low} is above high {high}")
    return ends


Metrics = dict[str, Annotated[_Ends, AfterValidator(_ordered)]]


class _Point(_Strict):
    w: Finite
    metrics: Metrics
    n_prompts: NotRequired[Count]


class _Turn(_Strict):
    role: str
    content: str


class _Answer(_Strict):
    text: str
    reward: Finite
    cost: Cost


class _Example(_Strict):
    prompt: list[_Turn]
    answers: dict[str, _Answer]


class _Reproduce(_Strict, total=False):
    command: str
    seed: Finite | None
    versions: dict[str, str]
    commit: str | None


class _Panel(_Strict):
    title: str
    note: str
    columns: dict[str, str]


class _Optional(_Strict, total=False):
    world: str | None
    method: str | None
    confidence: Annotated[float, Field(gt=0, lt=1)]
    differences: dict[str, Metrics]
    max_cost: Finite | None
    bounds: dict[str, dict[str, Cost]]
    dial: list[_Point]
    costs: dict[str, list[Cost]]
    rewards: dict[str, list[Finite]]
    training: dict[str, list[dict[str, Finite | None]]]
    panels: dict[str, list[_Panel]]
    scorers: dict[str, dict[str, Finite]]
    held_out: dict[str, dict[str, Finite]]
    notes: list[str]
    examples: list[_Example]
    settings: dict[str, Any]
    reproduce: _Reproduce
    seconds: dict[str, Cost]


class Results(_Optional):
    """The fields of `results.json` (docs/results.md); fields not named are left unchecked."""

    schema: Literal[1]
    created: str
    riskalign_version: str
    title: str
    model: str
    models: Annotated[dict[str, Metrics], Field(min_length=1)]
    n_prompts: Count
    answers_per_prompt: Count


_RESULTS = TypeAdapter(Results)
_LISTS = ("dial", "notes", "examples")
_NULLS = ("world", "method", "max_cost")


def _absent(name: str) -> Any:
    """What a field that is not there stands for."""
    if name == "confidence":
        return 0.95
    return None if name in _NULLS else [] if name in _LISTS else {}


def plain(value: Any) -> Any:
    """JSON's own types of dataclasses, numpy values, tuples and paths."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return value


def _without_non_finite(value: Any) -> Any:
    """A log may hold a NaN (an average over nothing); JSON has none, so it becomes null."""
    if isinstance(value, dict):
        return {key: _without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_WITH_INTERVALS = {"models", "differences", "dial"}
_ENDS = {"low": -math.inf, "high": math.inf}


def open_ends(value: Any, to_json: bool) -> Any:
    """Intervals' infinite ends as null, which is how JSON says that there is none, or back."""
    if isinstance(value, list):
        return [open_ends(item, to_json) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"value", "low", "high"}:
        swap = {end: (far, None) if to_json else (None, far) for end, far in _ENDS.items()}
        return {
            key: swap[key][1] if key in swap and item == swap[key][0] else item
            for key, item in value.items()
        }
    return {key: open_ends(item, to_json) for key, item in value.items()}


def _check(results: Any, source: str) -> None:
    try:
        _RESULTS.validate_python(results)
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(map(str, found["loc"]))
        shown = repr(found["input"])
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        said = "is missing" if found["type"] == "missing" else f"{found['msg']}, found {shown}"
        raise InputError(
            f"{source}: {f'field {place}: ' if place else ''}{said} (docs/results.md describes the "
            "format; a file of another schema is read by the version that wrote it)"
        ) from None


def write_results(path: str | Path, results: Mapping[str, Any]) -> None:
    """Check `results` (docs/results.md) and replace the file at `path` by them in one step.

    `Interval` and other dataclasses, numpy values, tuples and paths are turned into JSON's own
    types; a number in `training` or `settings` that is not finite becomes null, and so does an
    interval's end where there is none (infinity, which `read_results` gives back).

    Raises InputError, naming the field, for results that `read_results` would refuse.
    """
    content = plain(results)
    for name in ("training", "settings"):
        if name in content:
            content[name] = _without_non_finite(content[name])
    for name in _WITH_INTERVALS & content.keys():
        content[name] = open_ends(content[name], to_json=True)
    _check(content, str(path))
    try:
        text = json.dumps(content, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: these results are not JSON: {error}") from error
    write_text(path, text + "\n")


def read_results(path: str | Path) -> dict[str, Any]:
    """The checked content of a `results.json`, absent optional fields filled with empty ones.

    A file of before, whose last model is called `rsa` whatever its method, is read as one of today.

    Raises InputError, naming file and field or line, for a file that is missing, cut short, not
    JSON or not of this schema.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"{path}: there is no such file; `riskalign align` or `riskalign quickstart` writes it"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    try:
        results = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: line {error.lineno}: not JSON ({error.msg}); if the file was cut short, "
            "write it again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not usable JSON: {error}") from error
    _check(results, str(path))
    if "rsa" in results["models"] and "final" not in results["models"]:
        results = _renamed(results)
    for name in _WITH_INTERVALS & results.keys():
        results[name] = open_ends(results[name], to_json=False)
    whole: dict[str, Any] = {name: _absent(name) for name in _Optional.__annotations__} | results
    return whole


def _renamed(results: dict[str, Any]) -> dict[str, Any]:
    """The content of an old file with its last model called `final`, as by now all are."""

    def new(key: str) -> str:
        for old, now in (("rsa_minus_", "final_minus_"), ("_minus_rsa", "_minus_final")):
            key = key.replace(old, now)
        return {"rsa": "final", "evaluate-rsa": "evaluate-final"}.get(key, key)

    def under(value: Any) -> Any:
        return {new(key): item for key, item in value.items()}

    named = ("models", "differences", "bounds", "costs", "rewards", "seconds")
    renamed = results | {name: under(results[name]) for name in named if name in results}
    if "examples" in results:
        renamed["examples"] = [
            example | {"answers": under(example["answers"])} for example in results["examples"]
        ]
    steps = [results.get("settings", {}).get(kind) for kind in ("helpful", "safe")]
    losses = [str(step.get("loss_type")) for step in steps if isinstance(step, dict)]
    if any(loss.startswith("rsa") for loss in losses):
        renamed.setdefault("method", "RSA")
    return renamed


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
