"""A configuration's fields as flags after a command, `--safe.beta 0.2`, and the list of them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table

from riskalign.errors import InputError
from riskalign.settings import fields
from riskalign.terminal import escape


def parse_overrides(arguments: Sequence[str]) -> list[str]:
    """Return ``["safe.learning_rate=1e-5"]`` for ``["--safe.learning_rate", "1e-5"]``.

    ``--field=value`` and ``--field value`` mean the same; dashes inside a name are underscores.

    Raises:
        InputError: an argument is no flag, or a flag has no value.
    """
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not _is_flag(flag):
            raise InputError(f"{flag!r} is not a flag; settings are --field value: --safe.beta 0.2")
        name, equals, value = flag[2:].partition("=")
        if not equals:
            if not rest or _is_flag(rest[0]):
                raise InputError(f"{flag}: needs a value, such as {flag} VALUE")
            value = rest.pop(0)
        overrides.append(f"{name.replace('-', '_')}={value}")
    return overrides


def _is_flag(argument: str) -> bool:
    """A negative number is a value."""
    return argument.startswith("--") and len(argument) > 2


def field_tables(cls: type) -> Group:
    """A table a group, of its flags, their defaults and what they mean."""
    return Group(*_tables(cls, "", {}))


def _tables(cls: type, prefix: str, told: dict[type, str]) -> Iterator[Table]:
    title = f"[bold]{prefix.rstrip('.') or 'The job'}[/bold]"
    table = Table(
        box=None, pad_edge=False, show_header=False, expand=True, title=title, title_justify="left"
    )
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(no_wrap=True, max_width=14, overflow="ellipsis")
    table.add_column(ratio=1)
    groups = {}
    for name, kind, default, meaning in fields(cls):
        flag = f"{prefix}{name}"
        kinds: tuple[Any, ...] = (kind, *typing.get_args(kind))
        group: Any = next(filter(dataclasses.is_dataclass, kinds), None)
        if group is None:
            table.add_row(f"--{flag}", default, escape(meaning))
            continue
        if group in told:
            meaning += f" Fields as of {told[group]}."
        else:
            told[group] = groups[group] = flag
        table.add_row(f"--{flag}.…", default, escape(meaning))
    yield table
    for group, flag in groups.items():
        yield from _tables(group, f"{flag}.", told)
