"""The errors that riskalign raises on purpose.

Anything a user can put right (a file, a field, a flag) is an `InputError`: the command line
prints its message without a traceback and ends with exit code 2. Everything else is a bug or a
failure of the machine and keeps its traceback.
"""

import contextlib
import errno
from collections.abc import Iterator


class RiskalignError(Exception):
    """Base class of every error that riskalign raises on purpose."""


class InputError(RiskalignError, ValueError):
    """Bad input; the message names what is wrong, where, and how to put it right."""


class FieldError(InputError):
    """A field's value is wrong; `field` is its dotted name, `problem` the reason and remedy."""

    def __init__(self, field: str, problem: str, where: str = "") -> None:
        super().__init__(f"{where}{field}: {problem}")
        self.field = field
        self.problem = problem


class LimitKept(InputError):  # noqa: N818 - it says what happened
    """A limit on the risk is kept before anything is trained for it."""


class TrainingDiverged(RiskalignError, RuntimeError):  # noqa: N818 - it says what happened
    """The loss became NaN or infinite; the message names the step and what to try."""


class WorkerFailed(RiskalignError, RuntimeError):  # noqa: N818 - it says what happened
    """A process that a job started has ended before its work was done; the message says how."""


class EndpointFailed(RiskalignError, RuntimeError):  # noqa: N818 - it says what happened
    """A judge's endpoint gave no answer after all retries; the message says what it did last."""


@contextlib.contextmanager
def door(what: str, remedy: str) -> Iterator[None]:
    """Make an `InputError` of whatever a user's code, or a library that reads a file, raises.

    For blocks that run nothing of ours. An exit is no way out of them either; what a full disk,
    the keyboard or `riskalign` itself raises passes.
    """
    try:
        yield
    except RiskalignError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        said = " ".join(str(error).split())[:300]
        kind = type(error).__name__
        raise InputError(f"{what}: {kind}{': ' * bool(said)}{said}. {remedy}") from error
