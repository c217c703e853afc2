"""The fields of a configuration with their meaning and defaults, group by group."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from riskalign.settings import fields


def field_tables(cls: type) -> Group:
    """A table a group, of its flags, their defaults and what they mean."""
    return Group(*_tables(cls, "", {}))


def _tables(cls: type, prefix: str, told: dict[type, str]) -> Iterator[Table]:
    table = Table(box=None, pad_edge=False, show_header=False, expand=True)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(no_wrap=True, max_width=14, overflow="ellipsis")
    table.add_column(ratio=1)
    table.title = f"[bold]{prefix.rstrip('.') or 'The job'}[/bold]"
    table.title_justify = "left"
    groups = []
    for found in fields(cls):
        kinds: tuple[Any, ...] = (found.kind, *typing.get_args(found.kind))
        inner: Any = next(filter(dataclasses.is_dataclass, kinds), None)
        if inner is None:
            table.add_row(f"--{prefix}{found.name}", found.default, escape(found.meaning))
            continue
        name = f"{prefix}{found.name}"
        seen = told.get(inner)
        told.setdefault(inner, name)
        fields_of = f" Fields as of {seen}." if seen else ""
        table.add_row(f"--{name}.…", found.default, escape(found.meaning + fields_of))
        if not seen:
            groups.append((inner, name))
    yield table
    for inner, name in groups:
        yield from _tables(inner, f"{name}.", told)
