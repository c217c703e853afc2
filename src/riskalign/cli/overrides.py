"""Flags after a command that set fields of its configuration: `--safe.learning_rate 1e-5`."""

from __future__ import annotations

from collections.abc import Sequence

from riskalign.errors import InputError


def parse_overrides(arguments: Sequence[str]) -> list[str]:
    """Return ``["safe.learning_rate=1e-5"]`` for ``["--safe.learning_rate", "1e-5"]``.

    ``--field=value`` and ``--field value`` mean the same; dashes inside a name are underscores.

    Raises:
        InputError: an argument is no flag, or a flag has no value.
    """
    found: list[str] = []
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or len(flag) < 3:
            raise InputError(
                f"{flag!r} is not a flag; settings are given as --field value, "
                "such as --safe.learning_rate 1e-5"
            )
        name, equals, value = flag[2:].partition("=")
        if not equals:
            if not rest or _is_flag(rest[0]):
                raise InputError(f"{flag}: needs a value, such as {flag} VALUE")
            value = rest.pop(0)
        found.append(f"{name.replace('-', '_')}={value}")
    return found


def _is_flag(argument: str) -> bool:
    # A negative number is a value.
    return argument.startswith("--") and len(argument) > 2
