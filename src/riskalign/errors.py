"""The errors that riskalign raises on purpose.

Anything a user can put right (a file, a field, a flag) is an `InputError`: the command line
prints its message without a traceback and ends with exit code 2. Everything else is a bug or a
failure of the machine and keeps its traceback.
"""

from collections.abc import Iterable


class RiskalignError(Exception):
    """Base class of every error that riskalign raises on purpose."""


class InputError(RiskalignError, ValueError):
    """Bad input; the message names what is wrong, where, and how to put it right."""


class LimitKept(InputError):  # noqa: N818 - it says what happened
    """A limit on the risk is kept before anything is trained for it."""


class TrainingDiverged(RiskalignError, RuntimeError):  # noqa: N818 - it says what happened
    """The loss became NaN or infinite; the message names the step and what to try."""


class EndpointFailed(RiskalignError, RuntimeError):  # noqa: N818 - it says what happened
    """A judge's endpoint gave no answer after all retries; the message says what it did last."""


def check_rules(settings: object, rules: Iterable[tuple[str, bool, str]]) -> None:
    """Raise `InputError` for the first field whose rule does not hold.

    A rule is a field's name, whether it holds, and what to give instead.
    """
    for name, holds, remedy in rules:
        if not holds:
            raise InputError(f"{name} is {getattr(settings, name)!r}. Give {remedy}.")
