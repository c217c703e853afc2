"""Signals interrupt a command, which says what is kept; none is swallowed, none ends in silence."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from riskalign.cli.process import stop_signals
from riskalign.pipeline import run as pipeline_run
from tests.cli.test_app import model, recipe, run  # noqa: F401 - fixtures

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"]


@pytest.fixture(autouse=True)
def _not_ignored() -> Iterator[None]:
    """A run of tests in the background has some of them ignored, which a command leaves so."""
    before = {}
    for each in SIGNALS:
        number = getattr(signal, each)
        handler = signal.default_int_handler if each == "SIGINT" else signal.SIG_DFL
        before[number] = signal.signal(number, handler)
    yield
    for number, own in before.items():
        signal.signal(number, own)


def wait() -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.parametrize("name", SIGNALS)
def test_what_a_destructor_swallows_comes_again(name: str) -> None:
    class Swallows:
        def __del__(self) -> None:
            signal.raise_signal(getattr(signal, name))

    before = [signal.getsignal(getattr(signal, each)) for each in SIGNALS]
    with stop_signals() as stop:
        Swallows()
        assert stop.signum == getattr(signal, name)  # it came, and was swallowed
        with pytest.raises(KeyboardInterrupt):
            wait()
    assert [signal.getsignal(getattr(signal, each)) for each in SIGNALS] == before


def test_a_second_signal_at_once_does_not_spoil_the_first() -> None:
    with stop_signals() as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        assert stop.signum == signal.SIGHUP


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_job_says_what_it_keeps_and_ends_with_the_signals_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    recipe: str,  # noqa: F811
    name: str,
) -> None:
    def stopped(*arguments: Any, **options: Any) -> None:
        signal.raise_signal(getattr(signal, name))

    monkeypatch.setattr(pipeline_run, "train_step", stopped)
    assert run(monkeypatch, "align", "-c", recipe) == 128 + getattr(signal, name)
    said = capsys.readouterr().err
    assert f"{tmp_path / 'run'}: pairs-helpful; the same command" in said
    assert name in said
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"


@pytest.mark.parametrize("name", SIGNALS)
def test_a_command_without_stages_says_so_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    def stopped(*arguments: Any, **options: Any) -> None:
        signal.raise_signal(getattr(signal, name))

    monkeypatch.setattr("riskalign.pipeline.write_merge", stopped)
    arguments = ["merge", "a", "b", "--w", "0.5", "--out", "c"]
    assert run(monkeypatch, *arguments) == 128 + getattr(signal, name)
    assert f"ended by {name}; nothing is half-written" in capsys.readouterr().err
