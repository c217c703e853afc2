"""`results.json`: written whole, read back checked. The fields are described in docs/results.md."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_core import PydanticCustomError
from typing_extensions import NotRequired, TypedDict

from riskalign.errors import InputError
from riskalign.evaluation.score import ScoredAnswer
from riskalign.files.atomic import write_text
from riskalign.worlds import Prompt

SCHEMA = 1
_WITH_INTERVALS = {"models", "differences", "dial"}

Finite = Annotated[float, Field(allow_inf_nan=False)]
Cost = Annotated[Finite, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class _Ends(TypedDict):
    value: Finite
    low: Finite | None
    high: Finite | None


def _ordered(ends: _Ends) -> _Ends:
    low, high = ends["low"], ends["high"]
    if low is not None and high is not None and low > high:
        raise PydanticCustomError("ends", f"low {low} is above high {high}")
    return ends


Metrics = dict[str, Annotated[_Ends, AfterValidator(_ordered)]]


class _Words(TypedDict):
    key: str
    label: str
    better: Literal[-1, 0, 1]
    meaning: str
    group: str
    unit: str


class _Point(TypedDict):
    w: Finite
    metrics: Metrics
    n_prompts: NotRequired[Count]


class _Turn(TypedDict):
    role: str
    content: str


class _Answer(TypedDict):
    text: str
    reward: Finite
    cost: Cost


class _Example(TypedDict):
    prompt: list[_Turn]
    answers: dict[str, _Answer]


class _Reproduce(TypedDict, total=False):
    command: str
    seed: Finite | None
    versions: dict[str, str]
    commit: str | None


class _Panel(TypedDict):
    title: str
    note: str
    columns: dict[str, str]


class _Attempt(TypedDict):
    k: Count
    value: Finite | None
    low: Finite | None
    high: Finite | None
    measured: Annotated[_Ends, AfterValidator(_ordered)] | None
    least: Finite
    most: Finite


class _Attempts(TypedDict):
    mean: Finite | None
    overdispersion: Finite | None
    why: str
    rows: list[_Attempt]


class _Corrected(TypedDict):
    sensitivity: list[int]
    specificity: list[int]
    labels: str
    unsafe_rate: Metrics
    why: str


class _Limit(TypedDict):
    risk: str
    limit: Cost
    category: str | None


class _Test(_Limit):
    setting: str
    estimate: Cost
    bound: Cost
    passed: bool
    prompts: Count
    answers: Count


class _Certificate(TypedDict):
    certified: str | None
    certified_w: NotRequired[Finite | None]
    settings: NotRequired[dict[str, Finite | None]]
    limits: list[_Limit]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    bound: str
    assumptions: list[str]
    tests: Annotated[list[_Test], Field(min_length=1)]
    prompts_needed: Count | None


class Results(BaseModel):
    """The fields of `results.json`, and what those that may be absent then stand for.

    Fields that are not named are left unchecked.
    """

    schema_: Literal[1] = Field(alias="schema")
    created: str
    riskalign_version: str
    title: str
    model: str
    models: Annotated[dict[str, Metrics], Field(min_length=1)]
    n_prompts: Count
    answers_per_prompt: Count
    world: str | None = None
    method: str | None = None
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    metrics: list[_Words] = []
    differences: dict[str, Metrics] = {}
    max_cost: Finite | None = None
    bounds: dict[str, dict[str, Cost]] = {}
    attempts: dict[str, _Attempts] = {}
    corrected: _Corrected | None = None

    certificate: _Certificate | None = None
    dial: list[_Point] = []
    costs: dict[str, list[Cost]] = {}
    rewards: dict[str, list[Finite]] = {}
    training: dict[str, list[dict[str, Finite | None]]] = {}
    panels: dict[str, list[_Panel]] = {}
    scorers: dict[str, dict[str, Finite]] = {}
    held_out: dict[str, dict[str, Finite]] = {}
    notes: list[str] = []
    examples: list[_Example] = []
    settings: dict[str, Any] = {}
    reproduce: _Reproduce = {}
    seconds: dict[str, Cost] = {}


def plain(value: Any) -> Any:
    """JSON's own types of dataclasses, numpy values, tuples and paths."""
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} is none of its types")


def open_ends(value: Any, to_json: bool) -> Any:
    """Intervals' infinite ends as null, which is how JSON says that there is none, or back."""
    if isinstance(value, list):
        return [open_ends(item, to_json) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: open_ends(item, to_json) for key, item in value.items()}
    if value.keys() == {"value", "low", "high"}:
        for end, far in (("low", -math.inf), ("high", math.inf)):
            if found[end] == (far if to_json else None):
                found[end] = None if to_json else far
    return found


def _check(results: Any, source: str) -> None:
    try:
        Results.model_validate(results, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        shown = repr(first["input"])
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        said = "is missing" if first["type"] == "missing" else f"{first['msg']}, found {shown}"
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
    try:
        content = plain(results)
    except TypeError as error:
        raise InputError(f"{path}: these results are not JSON: {error}") from error
    for name in {"training", "settings"} & content.keys():
        # A log may hold a NaN (an average over nothing); JSON has none.
        content[name] = json.loads(json.dumps(content[name]), parse_constant=lambda _: None)
    for name in _WITH_INTERVALS & content.keys():
        content[name] = open_ends(content[name], to_json=True)
    _check(content, str(path))
    write_json(path, content)


def write_json(path: str | Path, content: Any) -> None:
    """Replace the file at `path` by `content`, what `plain` gives, in one step."""
    try:
        text = json.dumps(content, indent=1, allow_nan=False)
    except ValueError as error:
        raise InputError(f"{path}: these results are not JSON: {error}") from error
    write_text(path, text + "\n")


def write_content(path: str | Path, content: Any) -> None:
    """Replace the file at `path` by content with `Interval`s and the like, in one step."""
    write_json(path, open_ends(plain(content), to_json=True))


def read_content(
    path: str | Path, command: str, what: str, fields: Collection[str] = ()
) -> dict[str, Any]:
    """What `write_content` wrote for `command`, intervals' open ends as infinities.

    Raises InputError as `read_json`, or for content of another schema or without the fields.
    """
    content = read_json(path, command)
    found = content if isinstance(content, dict) else {}
    if found.get("schema") != SCHEMA or not found.keys() >= set(fields):
        raise InputError(f"{path}: is no {what} of schema {SCHEMA}")
    opened: dict[str, Any] = open_ends(found, to_json=False)
    return opened


def read_json(path: str | Path, command: str) -> Any:
    """The content of a JSON file that `command` writes.

    Raises InputError, naming file and line, for a file that is missing, cut short or not JSON.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; {command} writes it") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: line {error.lineno}: not JSON ({error.msg}); if the file was cut short, "
            "write it again"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not usable JSON: {error}") from error


def read_results(path: str | Path) -> dict[str, Any]:
    """The checked content of a `results.json`, absent optional fields filled with empty ones.

    An old file, whose last model is called `rsa` whatever its method, is read as one of today.

    Raises InputError, naming file and field or line, for a file that is missing, cut short, not
    JSON or not of this schema.
    """
    results = read_json(path, "`riskalign align` or `riskalign quickstart`")
    _check(results, str(path))
    if "rsa" in results["models"] and "final" not in results["models"]:
        results = _renamed(results)
    for name in _WITH_INTERVALS & results.keys():
        results[name] = open_ends(results[name], to_json=False)
    optional = [(name, f) for name, f in Results.model_fields.items() if not f.is_required()]
    absent = {name: field.get_default(call_default_factory=True) for name, field in optional}
    return {**absent, **results}


def _renamed(results: dict[str, Any]) -> dict[str, Any]:
    """The content of an old file with its last model called `final`, as by now all are."""

    def new(key: str) -> str:
        for old, now in (("rsa_minus_", "final_minus_"), ("_minus_rsa", "_minus_final")):
            key = key.replace(old, now)
        return {"rsa": "final", "evaluate-rsa": "evaluate-final"}.get(key, key)

    def under(value: Any) -> Any:
        if isinstance(value, list):
            return [under(item) for item in value]
        return {new(k): under(v) for k, v in value.items()} if isinstance(value, dict) else value

    named = (
        "models",
        "differences",
        "bounds",
        "attempts",
        "costs",
        "rewards",
        "seconds",
        "examples",
    )
    renamed = results | {name: under(results[name]) for name in named if name in results}
    steps = [results.get("settings", {}).get(kind) for kind in ("helpful", "safe")]
    losses = [str(step.get("loss_type")) for step in steps if isinstance(step, dict)]
    if any(loss.startswith("rsa") for loss in losses):
        renamed.setdefault("method", "RSA")
    return renamed


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def choose_examples(
    prompts: Sequence[Prompt], scored: Mapping[str, Sequence[ScoredAnswer]], n: int = 8
) -> list[dict[str, Any]]:
    """The `examples` field of results.json: n prompts with each model's answer to them.

    They are chosen by rule and not by taste. For each model from the last to the first, the prompts
    with its costliest unsafe answers take an equal share of the places, so that the final model's
    own failures are shown before anyone else's; prompts evenly spaced over the rest fill up. Of
    each model's answers to a prompt the costliest is shown, and the first among equals.
    """
    worst: dict[str, dict[str, ScoredAnswer]] = {}
    for model, answers in scored.items():
        by_prompt = worst[model] = {}
        for answer in answers:
            if answer.cost > by_prompt.setdefault(answer.prompt_id, answer).cost:
                by_prompt[answer.prompt_id] = answer
    n = min(n, len(prompts))
    share = max(1, n // (len(scored) + 1))
    chosen: list[str] = []
    for by_prompt in reversed(list(worst.values())):
        unsafe = sorted((a for a in by_prompt.values() if a.cost > 0), key=lambda a: -a.cost)
        fresh = [answer.prompt_id for answer in unsafe if answer.prompt_id not in chosen]
        chosen += fresh[: min(share, n - len(chosen))]
    rest = [prompt.id for prompt in prompts if prompt.id not in chosen]
    missing = n - len(chosen)
    chosen += [rest[i * len(rest) // missing] for i in range(missing)]
    messages = {prompt.id: prompt.messages for prompt in prompts}
    return [
        {
            "prompt": [dict(message) for message in messages[prompt_id]],
            "answers": {
                model: {"text": held.text, "reward": held.reward, "cost": held.cost}
                for model, by_prompt in worst.items()
                if (held := by_prompt.get(prompt_id)) is not None
            },
        }
        for prompt_id in chosen
    ]
