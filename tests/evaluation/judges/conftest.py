"""A running stub of a judge's endpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.evaluation.judges.stub import Behaviour, Stub, running

Serve = Callable[[Behaviour], Stub]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """`serve(behaviour)`: an endpoint for the length of a test."""
    # No proxy stands between a test and its own machine.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with contextlib.ExitStack() as stack:
        yield lambda behaviour: stack.enter_context(running(behaviour))
