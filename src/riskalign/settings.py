"""Settings that check themselves: fields by their types (pydantic), errors by their names.

A class of settings is a dataclass under `settings`, its fields annotated with the types below;
what is wrong with several fields together it refuses in `__post_init__`, by a `FieldError`.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import inspect
import itertools
import json
import textwrap
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


def expect(what: str, is_right: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """A validator of values for which `is_right` holds."""

    def checked(value: Any) -> Any:
        if not is_right(value):
            raise PydanticCustomError("expected", "expected {what}", {"what": what})
        return value

    return checked


def _whole(value: Any) -> Any:
    """YAML takes `1e3` for text."""
    with contextlib.suppress(ValueError, OverflowError):
        if isinstance(value, str) and "e" in value.lower() and float(value).is_integer():
            return int(float(value))
    return int(value) if isinstance(value, Integral) else value


def _can_be_a_name(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _listed(value: Any) -> Any:
    """A list as YAML has it; as a flag also `a,b` and a single number."""
    if isinstance(value, set | frozenset):
        raise PydanticCustomError("listed", "expected a list; a set has no order")
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    return (value,) if isinstance(value, int | float) else value


def _from_json(value: Any) -> Any:
    """Fields as they are, or in a text, which is what `HfArgumentParser` hands on."""
    with contextlib.suppress(ValueError):
        value = json.loads(value) if isinstance(value, str) else value
    if isinstance(value, str):
        raise PydanticCustomError("json", "expected fields, or a JSON object")
    return value


_NUMBER = BeforeValidator(expect("a number", lambda v: not isinstance(v, bool)))
_TEXT = BeforeValidator(expect("text (put it in quotes)", lambda v: isinstance(v, str | Path)))
_TRUTH = BeforeValidator(expect("true or false", lambda v: isinstance(v, bool)))
Flag = Annotated[bool, _TRUTH]
_PLAIN = AfterValidator(expect("text without NUL and halves of characters", _can_be_a_name))
Words = Annotated[
    str, _PLAIN, BeforeValidator(lambda v: str(v) if isinstance(v, Path) else v), _TEXT
]
Name = Annotated[Words, Field(pattern=r"\S")]
Whole = Annotated[int, BeforeValidator(_whole), _NUMBER]
Seed = Annotated[Whole, Field(ge=-(2**63), lt=2**63)]
Number = Annotated[float, _NUMBER, Field(allow_inf_nan=False)]
Count = Annotated[Whole, Field(ge=1, lt=2**31)]
NotLess = Annotated[Whole, Field(ge=0, lt=2**31)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Between = Annotated[Number, Field(gt=0, lt=1)]
UpToOne = Annotated[Number, Field(gt=0, le=1)]
ToOne = Annotated[Number, Field(ge=0, le=1)]
LISTED = BeforeValidator(_listed)
FROM_JSON = BeforeValidator(_from_json)
#: YAML takes a bare `no` for false.
NO = BeforeValidator(lambda value: "no" if value is False else value)


def known(check: Callable[[Any], object]) -> AfterValidator:
    """A value that `check` takes without an `InputError`."""

    def checked(value: Any) -> Any:
        check(value)
        return value

    return AfterValidator(checked)


@typing.dataclass_transform(field_specifiers=(dataclasses.field,))
def settings(cls: type[T]) -> type[T]:
    """A dataclass whose fields are checked, converted and, if unknown, refused; none changes later.

    Raises:
        FieldError: from the class's call, for the first field that is wrong.
    """
    made: Any = dataclass(config=ConfigDict(extra="forbid"))(cls)
    checked = made.__init__
    names = [field.name for field in dataclasses.fields(made)]

    def refused(self: Any, *args: Any, **given: Any) -> None:
        if len(args) > len(names):
            raise TypeError(f"{cls.__name__}: {len(args)} values for {len(names)} fields")
        try:
            checked(self, **dict(zip(names, args, strict=False)), **given)
        except ValidationError as error:
            raise _first(error, cls) from None

    def fixed(self: Any, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}; make it anew")

    def hashed(self: Any) -> int:
        return hash(json.dumps(dataclasses.asdict(self), sort_keys=True, default=str))

    # Not `frozen=True`: such a class cannot share fields with a user's own, as RSAConfig does.
    made.__init__, made.__setattr__, made.__hash__ = refused, fixed, hashed
    return typing.cast(type[T], made)


def fields(cls: type[Any]) -> Iterator[tuple[str, Any, str, str]]:
    """Name, type, default as YAML has it, and meaning of each field of a class of settings."""
    hints, meanings = typing.get_type_hints(cls), field_meanings(cls)
    for field in dataclasses.fields(cls):
        kind, given = hints[field.name], field.default
        given = given.default if isinstance(given, FieldInfo) else given
        hidden = dataclasses.is_dataclass(kind) or given is dataclasses.MISSING
        yield field.name, kind, "" if hidden else json.dumps(given), meanings.get(field.name, "")


def field_meanings(cls: type[Any]) -> dict[str, str]:
    """The docstring below each field of a dataclass and of those that it inherits from here."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(each) or each.__module__.startswith("transformers"):
            continue
        try:
            [tree] = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        except OSError:  # installed without its sources
            continue
        for field, below in itertools.pairwise(typing.cast(ast.ClassDef, tree).body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(text))):
                    found[name] = " ".join(text.split())
    return found


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
        except ValidationError as error:
            raise _first(error, type(owner), name) from None
        object.__setattr__(owner, name, value)


def refuse(problems: Iterable[tuple[str, str]]) -> None:
    """Raise the first problem: a field's dotted name, and why its value is wrong."""
    for name, problem in problems:
        raise FieldError(name, problem)


def wrong(name: str, is_wrong: bool, problem: str) -> Iterator[tuple[str, str]]:
    """A problem, if it is one."""
    if is_wrong:
        yield name, problem


def _first(error: ValidationError, cls: type[Any], *below: str) -> FieldError:
    """The first error, by the dotted name of its field, which is `below` those named."""
    found = error.errors()[0]
    cause = (found.get("ctx") or {}).get("error")
    group: Any = cls
    names: list[str] = []
    for part in (*below, *found["loc"]):
        hints = typing.get_type_hints(group)
        if part not in hints:  # a list's place, or an arm of a union
            break
        names.append(str(part))
        inner = hints[part], *typing.get_args(hints[part])
        group = next((hint for hint in inner if dataclasses.is_dataclass(hint)), type(None))
    says, value = found["msg"], repr(found["input"])
    problem = f"{says}, found {value}"
    if found["type"] == "unexpected_keyword_argument":
        names.append(str(found["loc"][-1]))
        there = [field.name for field in dataclasses.fields(group)]
        close = difflib.get_close_matches(names[-1], there, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(there)}"
        problem = f"no such field; {hint}"
    elif isinstance(cause, FieldError):
        names.append(cause.field)
        problem = cause.problem
    elif isinstance(cause, InputError):
        problem = str(cause)
    elif found["type"] == "missing":  # what else was given may be a secret
        problem = "is missing"
    elif says.startswith("Input "):
        problem = f"{value} {says.removeprefix('Input ')}"
    return FieldError(".".join(names) or cls.__name__, problem)
