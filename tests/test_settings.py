"""Settings say what is wrong with a field, by its name, however deep and however given."""

from dataclasses import field, replace
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from riskalign.errors import FieldError, InputError
from riskalign.settings import (
    LISTED,
    Between,
    Count,
    Flag,
    Name,
    Number,
    Positive,
    Words,
    check,
    fields,
    known,
    parse,
    refuse,
    settings,
    wrong,
)


def _short(text: str) -> None:
    if len(text) > 5:
        raise InputError(f"{text!r} is long")


@settings
class Inner:
    """A group."""

    count: Count = 1
    """How many."""
    rates: Annotated[tuple[Positive, ...], LISTED, Field(min_length=1)] = (1.0,)
    layers: Words | Annotated[tuple[Words, ...], LISTED] = "all"

    def __post_init__(self) -> None:
        """Refuse seven."""
        refuse(wrong("count", self.count == 7, "is 7"))


@settings
class Outer:
    """The whole."""

    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    flag: Flag = False
    number: Number | None = None
    share: Between = 0.5
    name: Name = "x"
    short: Annotated[Words, known(_short)] = "a"
    kind: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"inner": {"count": 0}}, "inner.count: 0 should be greater than or equal to 1"),
        ({"inner": {"count": 7}}, "inner.count: is 7"),
        ({"maybe": {"count": 7}}, "maybe.count: is 7"),
        ({"inner": {"cuont": 2}}, "inner.cuont: no such field; did you mean 'count'?"),
        ({"zzz": 2}, "zzz: no such field; there are: inner, maybe, flag, number, share"),
        ({"inner": {"rates": [1, 0]}}, "inner.rates: 0 should be greater than 0"),
        ({"inner": {"rates": []}}, "inner.rates: Value should have at least 1 item"),
        ({"inner": {"layers": 3}}, "inner.layers: expected text"),
        ({"inner": 3}, "inner: 3 should be a dictionary"),
        ({"flag": 1}, "flag: expected true or false, found 1"),
        ({"number": True}, "number: expected a number, found True"),
        ({"number": float("nan")}, "number: nan should be a finite number"),
        ({"number": "much"}, "number: 'much' should be a valid number"),
        ({"share": 1}, "share: 1 should be less than 1"),
        ({"name": " "}, "name: String should match"),
        ({"name": 7}, "name: expected text (put it in quotes), found 7"),
        ({"short": "longer"}, "short: 'longer' is long"),
        ({"kind": "c"}, "kind: 'c' should be 'a' or 'b'"),
    ],
)
def test_what_is_wrong_is_named(tree: dict[str, Any], message: str) -> None:
    for as_plain in (True, False):
        with pytest.raises(FieldError) as caught:
            parse(Outer, tree) if as_plain else Outer(**tree)
        assert str(caught.value).startswith(message)


def test_values_become_what_the_field_is() -> None:
    made = parse(Outer, {"number": "1e-5", "inner": {"rates": "1,2", "layers": ["q", "v"]}})
    assert (made.number, made.inner.rates, made.inner.layers) == (1e-5, (1.0, 2.0), ("q", "v"))
    assert parse(Inner, {"rates": 3}).rates == (3.0,)
    assert Inner(2) == Inner(count=2)
    with pytest.raises(FieldError, match="count: 0"):
        Inner(0)
    with pytest.raises(FieldError, match="count: is 7"):
        replace(made.inner, count=7)


def test_fields_tell_their_meaning() -> None:
    first, *_, last = fields(Inner)
    assert first == ("count", int, "1", "How many.")
    assert (last[0], *last[2:]) == ("layers", '"all"', "")


def test_other_objects_are_checked_by_the_same_types() -> None:
    check(Outer(), {"share": Between})
    with pytest.raises(FieldError, match=r"share: 0.5 should be a valid tuple"):
        check(Outer(), {"kind": Words, "share": tuple[int, ...]})


def test_whole_numbers_as_yaml_has_them() -> None:
    assert parse(Inner, {"count": "1e3"}).count == 1000
    with pytest.raises(FieldError, match=r"count: '1\.5' should be a valid integer"):
        parse(Inner, {"count": "1.5"})


def test_what_is_missing_shows_nothing_else_and_nothing_surplus_is_dropped() -> None:
    @settings
    class Secret:
        key: Words
        model: Words

    with pytest.raises(FieldError) as caught:
        Secret(key="sk-hidden")  # type: ignore[call-arg]
    assert str(caught.value) == "model: is missing"
    with pytest.raises(TypeError):
        Inner(1, (1.0,), "all", 4)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Inner(1, count=2)  # type: ignore[misc]
