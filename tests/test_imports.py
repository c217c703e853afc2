"""Rooms import one way: the graph of their imports, functions' included, has no circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "riskalign"
ORDER = ("risk", "tokens", "losses", "training", "pipeline", "cli")


def _room(module: str) -> str:
    """A folder below the package, or a module that lies in it."""
    return module.split(".")[1] if "." in module else module


def graph(source: Path) -> dict[str, set[str]]:
    """Each room and the rooms that it imports; what is for type checkers alone does not count."""
    found: dict[str, set[str]] = {}
    for path in source.rglob("*.py"):
        own = _room(".".join(("riskalign", *path.relative_to(source).with_suffix("").parts)))
        found.setdefault(own, set())
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                node.body = []
        for node in ast.walk(tree):
            named: list[str] = []
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "riskalign":
                named = [f"riskalign.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                named = [node.module or ""]
            found[own] |= {_room(name) for name in named if name.startswith("riskalign.")} - {own}
    return found


def test_there_is_no_circle() -> None:
    rooms = graph(SOURCE)
    assert set(ORDER) <= set(rooms)
    placed = list(TopologicalSorter(rooms).static_order())
    assert [room for room in placed if room in ORDER] == list(ORDER)


def test_a_circle_would_be_seen(tmp_path: Path) -> None:
    for room, other in (("one", "two"), ("two", "one")):
        (tmp_path / room).mkdir()
        (tmp_path / room / "a.py").write_text(f"def f():\n    from riskalign.{other} import a\n")
    with pytest.raises(CycleError):
        list(TopologicalSorter(graph(tmp_path)).static_order())
