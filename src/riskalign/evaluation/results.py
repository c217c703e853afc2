"""`results.json`: written whole, read back checked. The fields are described in docs/results.md."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from riskalign.atomic import write_text
from riskalign.errors import InputError

SCHEMA = 1

Check = Callable[[Any], None]


class _Wrong(Exception):  # noqa: N818 - not an error by itself: it grows into an InputError
    """What is wrong with a value; the path of fields in front grows on the way up."""

    def __init__(self, message: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _number(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _Wrong(f"expected a finite number, found {_shown(value)}")


def _number_or_null(value: Any) -> None:
    if value is not None:
        _number(value)


def _cost(value: Any) -> None:
    _number(value)
    if value < 0:
        raise _Wrong(f"expected a cost of 0 or more, found {value}")


def _share(value: Any) -> None:
    _number(value)
    if not 0 < value < 1:
        raise _Wrong(f"expected a number between 0 and 1, found {value}")


def _count(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _Wrong(f"expected a whole number of 1 or more, found {_shown(value)}")


def _schema(value: Any) -> None:
    if value != SCHEMA:
        raise _Wrong(
            f"expected {SCHEMA}, found {_shown(value)}: read it with the version of riskalign "
            "that wrote it"
        )


def _text(value: Any) -> None:
    if not isinstance(value, str):
        raise _Wrong(f"expected a text, found {_shown(value)}")


def _text_or_null(value: Any) -> None:
    if value is not None:
        _text(value)


def _anything(value: Any) -> None:
    pass


def _record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these fields; fields not named are left unchecked."""

    def check(value: Any) -> None:
        if not isinstance(value, dict):
            raise _Wrong(f"expected an object, found {_shown(value)}")
        for name, inner in (*required.items(), *(optional or {}).items()):
            if name in value:
                _inside(name, inner, value[name])
            elif name in required:
                raise _Wrong("this field is missing", (name,))

    return check


def _mapping(inner: Check, at_least: int = 0) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, dict):
            raise _Wrong(f"expected an object, found {_shown(value)}")
        if len(value) < at_least:
            raise _Wrong(f"expected at least {at_least} entry, found none")
        for name, item in value.items():
            _inside(name, inner, item)

    return check


def _list(inner: Check) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, list):
            raise _Wrong(f"expected a list, found {_shown(value)}")
        for i, item in enumerate(value):
            _inside(str(i), inner, item)

    return check


def _interval(value: Any) -> None:
    _record({"value": _number, "low": _number_or_null, "high": _number_or_null})(value)
    if value["low"] is not None and value["high"] is not None and value["low"] > value["high"]:
        raise _Wrong(f"low {value['low']} is above high {value['high']}")


def _inside(name: str, check: Check, value: Any) -> None:
    try:
        check(value)
    except _Wrong as wrong:
        raise _Wrong(wrong.message, (name, *wrong.path)) from None


_METRICS = _mapping(_interval)
_RESULTS = _record(
    {
        "schema": _schema,
        "created": _text,
        "riskalign_version": _text,
        "title": _text,
        "model": _text,
        "models": _mapping(_METRICS, at_least=1),
        "n_prompts": _count,
        "answers_per_prompt": _count,
    },
    {
        "world": _text_or_null,
        "method": _text_or_null,
        "confidence": _share,
        "differences": _mapping(_METRICS),
        "max_cost": _number_or_null,
        "bounds": _mapping(_mapping(_cost)),
        "dial": _list(_record({"w": _number, "metrics": _METRICS}, {"n_prompts": _count})),
        "costs": _mapping(_list(_cost)),
        "rewards": _mapping(_list(_number)),
        "training": _mapping(_list(_mapping(_number_or_null))),
        "scorers": _mapping(_mapping(_number)),
        "held_out": _mapping(_mapping(_number)),
        "notes": _list(_text),
        "examples": _list(
            _record(
                {
                    "prompt": _list(_record({"role": _text, "content": _text})),
                    "answers": _mapping(_record({"text": _text, "reward": _number, "cost": _cost})),
                }
            )
        ),
        "settings": _mapping(_anything),
        "reproduce": _record(
            {},
            {
                "command": _text,
                "seed": _number_or_null,
                "versions": _mapping(_text),
                "commit": _text_or_null,
            },
        ),
        "seconds": _mapping(_cost),
    },
)
_DEFAULTS: dict[str, Callable[[], Any]] = {
    "world": lambda: None,
    "method": lambda: None,
    "confidence": lambda: 0.95,
    "differences": dict,
    "max_cost": lambda: None,
    "bounds": dict,
    "dial": list,
    "costs": dict,
    "rewards": dict,
    "training": dict,
    "scorers": dict,
    "held_out": dict,
    "notes": list,
    "examples": list,
    "settings": dict,
    "reproduce": dict,
    "seconds": dict,
}


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
        _RESULTS(results)
    except _Wrong as wrong:
        place = f"field {'.'.join(wrong.path)}: " if wrong.path else ""
        raise InputError(
            f"{source}: {place}{wrong.message} (docs/results.md describes the format)"
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
    return {**{name: make() for name, make in _DEFAULTS.items() if name not in results}, **results}


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
