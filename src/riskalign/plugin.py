"""What a user names as `package.module:attribute`: a world, a risk measure, a loss."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from riskalign.errors import door

T = TypeVar("T")


def load(spec: str, what: str, make: Callable[[object], T]) -> T:
    """What `make` makes of the attribute that `package.module:attribute` names.

    A module is looked for where Python's are, then in the working directory, which is searched
    only meanwhile: beside a user's data may lie any `attr.py`.

    Raises:
        InputError: there is no such module or attribute; `what` is what it was to be.
    """
    module, _, attribute = spec.partition(":")
    here = os.getcwd()
    remedy = "Give package.module:name of a module that Python can import from here"
    sys.path.append(here)
    try:
        with door(f"{what}: cannot load {spec!r}", remedy):
            found = make(getattr(importlib.import_module(module), attribute))
        return found
    finally:
        # From the end: the caller may have had it on the path before.
        with contextlib.suppress(ValueError):
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(here)]


def files_of(module: str) -> list[Path]:
    """The files that an imported module is computed with, as far as can be known.

    A module in a package may lean on its neighbours, so all files beside it count.
    """
    loaded = sys.modules[module]
    if getattr(loaded, "__file__", None) is None:
        return []
    path = Path(str(loaded.__file__))
    in_package = "." in module or hasattr(loaded, "__path__")
    return sorted(path.parent.glob("*.py")) if in_package else [path]


def outside(specs: Iterable[str]) -> dict[str, str]:
    """Hashes of what those of the specs that are `package.module:attribute` are computed with."""
    hashes = {}
    for spec in sorted({spec for spec in specs if ":" in spec}):
        files = files_of(spec.partition(":")[0])
        content = b"".join(path.name.encode() + b"\0" + path.read_bytes() for path in files)
        hashes[spec] = hashlib.sha256(content).hexdigest()
    return hashes
