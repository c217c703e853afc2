"""Settings that check themselves: fields by their types (pydantic), errors by their names.

A class of settings is a frozen dataclass under `settings`, its fields annotated with the types
below; what is said of several fields together it checks in `__post_init__`, by `refuse`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from riskalign.errors import FieldError, InputError

T = TypeVar("T")


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "expected a number")
    return value


def _whole(value: Any) -> Any:
    """YAML takes `1e3` for text."""
    value = _no_truth(value)
    with contextlib.suppress(ValueError, OverflowError):
        if isinstance(value, str) and float(value).is_integer():
            return int(float(value))
    return int(value) if isinstance(value, Integral) else value


def _truth(value: Any) -> Any:
    if not isinstance(value, bool):
        raise PydanticCustomError("truth", "expected true or false")
    return value


def _text(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str):
        raise PydanticCustomError("text", "expected text (put it in quotes)")
    return value


def _listed(value: Any) -> Any:
    """A list as YAML has it; as a flag also `a,b` and a single number."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    return (value,) if isinstance(value, int | float) else value


Flag = Annotated[bool, BeforeValidator(_truth)]
Words = Annotated[str, BeforeValidator(_text)]
Name = Annotated[Words, Field(pattern=r"\S")]
Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_no_truth), Field(allow_inf_nan=False)]
Count = Annotated[Whole, Field(ge=1)]
NotLess = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Between = Annotated[Number, Field(gt=0, lt=1)]
UpToOne = Annotated[Number, Field(gt=0, le=1)]
ToOne = Annotated[Number, Field(ge=0, le=1)]
LISTED = BeforeValidator(_listed)


def known(check: Callable[[str], object]) -> AfterValidator:
    """A text that `check` takes without an `InputError`."""

    def checked(value: str) -> str:
        check(value)
        return value

    return AfterValidator(checked)


@typing.dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(cls: type[T]) -> type[T]:
    """A frozen dataclass whose fields are checked, converted and, if unknown, refused.

    Raises:
        FieldError: from the class's call, for the first field that is wrong.
    """
    made = dataclass(frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))(
        cls
    )
    checked = made.__init__
    names = [field.name for field in dataclasses.fields(made)]

    def refused(self: Any, *args: Any, **fields: Any) -> None:
        given = dict(zip(names, args, strict=False))
        if len(args) > len(names) or given.keys() & fields.keys():
            raise TypeError(f"{cls.__name__}: more positional arguments than fields, or one twice")
        given |= fields
        try:
            checked(self, **given)
        except ValidationError as error:
            raise _first(error, cls) from None

    made.__init__ = refused  # type: ignore[method-assign]
    return typing.cast(type[T], made)


class FieldOf(typing.NamedTuple):
    """A field of a class of settings: `kind` is its type, `default` as YAML has it."""

    name: str
    kind: Any
    default: str
    meaning: str


def fields(cls: type[Any]) -> list[FieldOf]:
    """The fields of a class of settings, in order, with what is said below each."""
    hints = typing.get_type_hints(cls)
    said = cls.__pydantic_fields__
    found = []
    for field in dataclasses.fields(cls):
        given = field.default
        if isinstance(given, FieldInfo):
            given = given.default
        shown = "" if dataclasses.is_dataclass(hints[field.name]) else _as_yaml(given)
        meaning = " ".join((said[field.name].description or "").split())
        found.append(FieldOf(field.name, hints[field.name], shown, meaning))
    return found


def _as_yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return json.dumps(plain) if plain is not dataclasses.MISSING else ""


def parse(cls: type[T], tree: Mapping[str, Any]) -> T:
    """Settings from plain fields, groups within groups.

    Raises:
        FieldError: for the first field that is wrong, by its dotted name.
    """
    try:
        return TypeAdapter(cls).validate_python(dict(tree))
    except ValidationError as error:
        raise _first(error, cls) from None


def check(owner: object, kinds: Mapping[str, Any]) -> None:
    """Check and convert attributes of an object that is no such dataclass by types as above.

    Raises:
        FieldError: for the first that is wrong.
    """
    for name, kind in kinds.items():
        try:
            value = TypeAdapter(kind).validate_python(getattr(owner, name))
            object.__setattr__(owner, name, value)
        except ValidationError as error:
            raise FieldError(name, _problem(error.errors()[0])) from None


def refuse(problems: Iterable[tuple[str, str]]) -> None:
    """Raise the first problem: a field's dotted name, and why its value is wrong."""
    for name, problem in problems:
        raise FieldError(name, problem)


def wrong(name: str, is_wrong: bool, problem: str) -> Iterator[tuple[str, str]]:
    """A problem, if it is one."""
    if is_wrong:
        yield name, problem


def _first(error: ValidationError, cls: type[Any]) -> FieldError:
    found = error.errors()[0]
    cause = (found.get("ctx") or {}).get("error")
    group: Any = cls
    names: list[str] = []
    unknown = ""
    for part in found["loc"]:
        hints = typing.get_type_hints(group)
        if part not in hints:
            # A list's place or an arm of a union; or, at a group's own door, no field.
            unknown = str(part) if found["type"] == "unexpected_keyword_argument" else ""
            names += [unknown] if unknown else []
            break
        names.append(str(part))
        inner = hints[part], *typing.get_args(hints[part])
        group = next((hint for hint in inner if dataclasses.is_dataclass(hint)), type(None))
    if unknown:
        fields = [field.name for field in dataclasses.fields(group)]
        close = difflib.get_close_matches(unknown, fields, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(fields)}"
        return FieldError(".".join(names), f"no such field; {hint}")
    if isinstance(cause, FieldError):
        return FieldError(".".join([*names, cause.field]), cause.problem)
    if not names and isinstance(cause, InputError):
        names = [cls.__name__]
    return FieldError(".".join(names), _problem(found))


def _problem(found: Any) -> str:
    cause = (found.get("ctx") or {}).get("error")
    if isinstance(cause, InputError):
        return str(cause)
    if found["type"] == "missing":  # what else was given may be a secret
        return "is missing"
    says, value = found["msg"], repr(found["input"])
    if says.startswith("Input "):
        return f"{value} {says.removeprefix('Input ')}"
    return f"{says}, found {value}"
