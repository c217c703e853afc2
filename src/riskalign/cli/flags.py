"""A configuration's fields as flags after a command, `--safe.beta 0.2`, and the list of them."""

from __future__ import annotations

import dataclasses
import pkgutil
import typing
from collections.abc import Container, Iterator, Sequence
from typing import Any

import typer
from rich.console import Console, Group
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


def help_with_fields(spec: str, title: str, hidden: Container[str] = ()) -> Any:
    """The option --help that also lists the fields of a class of settings, given as module:name."""

    def show(ctx: typer.Context, asked: bool) -> None:
        if asked:
            typer.echo(ctx.get_help())
            Console().print(field_tables(pkgutil.resolve_name(spec), title, hidden))
            raise typer.Exit

    text = "Show this message and every field, and exit."
    return typer.Option("--help", help=text, is_eager=True, callback=show)


def field_tables(cls: type, title: str = "The job", hidden: Container[str] = ()) -> Group:
    """A table a group, of its flags but the hidden ones, their defaults and what they mean."""
    return Group(*_tables(cls, "", {}, title, hidden))


def _tables(
    cls: type, prefix: str, told: dict[type, str], title: str, hidden: Container[str] = ()
) -> Iterator[Table]:
    title = f"[bold]{title}[/bold]"
    table = Table(
        box=None, pad_edge=False, show_header=False, expand=True, title=title, title_justify="left"
    )
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(no_wrap=True, max_width=14, overflow="ellipsis")
    table.add_column(ratio=1)
    groups: dict[type, str] = {}
    for name, kind, default, meaning in fields(cls):
        flag = f"{prefix}{name}"
        if flag in hidden:
            continue
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
        yield from _tables(group, f"{flag}.", told, flag)
