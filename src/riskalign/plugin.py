"""What a user names as `package.module:attribute`: a world, a risk measure, a loss."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import TypeVar

from riskalign.errors import InputError

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
    sys.path.append(here)
    try:
        return make(getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{what}: cannot load {spec!r} ({error}); give package.module:name of a module that "
            "Python can import from here"
        ) from error
    finally:
        # From the end: the caller may have had it on the path before.
        with contextlib.suppress(ValueError):
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(here)]


def source_of(spec: str) -> str:
    """SHA-256 of the file that `package.module:attribute`, loaded before, was loaded from."""
    source = inspect.getsource(sys.modules[spec.partition(":")[0]])
    return hashlib.sha256(source.encode()).hexdigest()
