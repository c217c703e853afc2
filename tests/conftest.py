"""Fixtures shared by every room; nothing in the tests reaches the network."""

import functools
import gc
import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that wait for each other take longer than tiny models do.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if shutil.which("nvidia-smi") is None:
    # Kernels for GPUs run in Triton's interpreter; it must be told before it is first imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import typer.testing
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests import tiny


def pytest_collection() -> None:
    """Import all tests without the garbage collector."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Take all that is imported out of the garbage collector's sight: a round of it costs 0.3 s."""
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter clean up as usual."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _commands_are_made_once() -> Iterator[None]:
    """Typer makes the tree of commands anew at each call, which takes longer than most calls."""
    made = functools.cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", made)
        patch.setattr(typer.testing, "_get_command", made)
        yield


@pytest.fixture
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a ChatML template; eos is the chat end token."""
    return tiny.make_tokenizer()


@pytest.fixture
def tiny_model() -> Callable[..., PreTrainedModel]:
    """`tiny_model(model_type="llama", seed=0, ...)`: see `tests.tiny.make_model`."""
    return tiny.make_model


@pytest.fixture
def tiny_pairs() -> Callable[[int], list[dict[str, Any]]]:
    """`tiny_pairs(n)`: conversational preference rows with scores."""
    return tiny.make_pairs


@pytest.fixture(scope="session")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from riskalign.models import save_model  # with peft: a room that saves nothing does without

    folder = tmp_path_factory.mktemp("tiny") / "start"
    save_model(tiny.make_model(), tiny.make_tokenizer(), folder)
    return folder


@pytest.fixture
def start_folder(_saved: Path, tmp_path: Path) -> Path:
    """A folder of the tiny model, `start` in the test's own: a copy of one that was saved once."""
    return Path(shutil.copytree(_saved, tmp_path / "start"))
