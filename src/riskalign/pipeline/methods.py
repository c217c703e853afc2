"""Methods: steps with a training loop of their own, in place of a loss on rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from riskalign.data import Kind
from riskalign.errors import InputError
from riskalign.plugin import load
from riskalign.settings import settings

if TYPE_CHECKING:
    from riskalign.pipeline.config import AlignConfig
    from riskalign.pipeline.steps import MethodStep, Result

KINDS: tuple[Kind, ...] = ("helpful", "safe")

#: The methods that ship, by their name in `order`, which is also the field of their options.
METHODS: Mapping[str, str] = {"ppo": "riskalign.pipeline.rlhf:PPO"}


@settings
class NoOptions:
    """Of a method that has none."""


@dataclass(frozen=True)
class Panel:
    """What the report draws of a log: columns and what they are called."""

    title: str
    note: str
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Method:
    """A step with a loop of its own, which `order` names.

    `run` trains from `step.start`, as a rule by `step.train`; all that a job knows of the method is
    here:

    - `title`: what reports call it;
    - `options`: a class of settings, given under the method's name: a field of that name for those
      that ship, `methods: {"package.module:name": {...}}` for others;
    - `pairs`: the kinds of pairs that it may ask `step.pairs` for;
    - `problems`: fields and why they are wrong, found before any work;
    - `disk`: sizes, in those of the start model, of what it leaves beside its model, and of its
      checkpoints while it runs;
    - `trees`: folders that it leaves in its step's, beside the model;
    - `fields`: of the configuration, which nothing but this method reads;
    - `panels`: what the report draws of its log, in place of a loss's metrics.
    """

    title: str
    run: Callable[[MethodStep], Result]
    options: type[Any] = NoOptions
    pairs: Callable[[AlignConfig], Sequence[Kind]] = lambda config: ()
    problems: Callable[[AlignConfig], Iterable[tuple[str, str]]] = lambda config: ()
    disk: Callable[[AlignConfig], tuple[int, int]] = lambda config: (0, 0)
    trees: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()


def has_rows(kind: str) -> TypeGuard[Kind]:
    """Whether a step of this kind trains on rows; others are methods."""
    return kind in KINDS


def get_method(kind: str) -> Method:
    """The method that `order` names: one of `METHODS`, or a `Method` at package.module:name.

    Raises `InputError`: there is none.
    """
    spec = METHODS.get(kind, kind)
    if ":" not in spec:
        known = ", ".join([*KINDS, *METHODS])
        raise InputError(f"{kind!r} is not one of {known}; or give package.module:name of a Method")
    found = load(spec, "order", lambda found: found)
    if not isinstance(found, Method):
        raise InputError(f"{kind!r} is no riskalign.pipeline.methods.Method")
    return found


def check_kind(kind: str) -> None:
    """Refuse what is no kind of step."""
    if not has_rows(kind):
        get_method(kind)
