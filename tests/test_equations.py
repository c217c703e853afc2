"""docs/equations.md and SOURCE_MAP.md name functions, files and tests that there are."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = re.findall(
    r"\| `([\w.]+)` \| `([\w/.]+)::(\w+)` \|$",
    (ROOT / "docs" / "equations.md").read_text(encoding="utf-8"),
    flags=re.MULTILINE,
)


def test_the_table_is_read() -> None:
    assert len(ROWS) >= 20


@pytest.mark.parametrize(("function", "file", "test"), ROWS, ids=[row[0] for row in ROWS])
def test_function_and_test_exist(function: str, file: str, test: str) -> None:
    module, _, name = function.rpartition(".")
    assert callable(getattr(importlib.import_module(f"riskalign.{module}"), name))
    assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")


def test_files_of_the_source_map_exist() -> None:
    text = (ROOT / "SOURCE_MAP.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w./-]+/[\w./-]+)`", text)
    assert len(named) > 15
    for path in named:
        assert (ROOT / path).exists(), path
