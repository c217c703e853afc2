"""Imports go one way, functions' included: neither rooms nor files have a circle."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "riskalign"
ORDER = ("risk", "tokens", "losses", "training", "pipeline", "cli")


def _room(module: str) -> str:
    """A folder below the package, or a module that lies in it."""
    return module.split(".")[1] if "." in module else module


def modules(source: Path) -> dict[str, Path]:
    """The package's files, by the names of their modules."""
    dotted = {path: path.relative_to(source).with_suffix("").parts for path in source.rglob("*.py")}
    return {
        ".".join(("riskalign", *parts)).removesuffix(".__init__"): path
        for path, parts in dotted.items()
    }


def _imported(path: Path) -> Iterator[tuple[str, str]]:
    """Modules of the package that a file imports, each with the name taken from it or nothing.

    What is for type checkers alone does not count.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        named: list[tuple[str, str]] = []
        if isinstance(node, ast.Import):
            named = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            named = [(node.module or "", alias.name) for alias in node.names]
        yield from (each for each in named if f"{each[0]}.".startswith("riskalign."))


def graph(source: Path) -> dict[str, set[str]]:
    """Each room and the rooms that it imports."""
    found: dict[str, set[str]] = {}
    for own, path in modules(source).items():
        named = (f"{module}.{name}".removesuffix(".") for module, name in _imported(path))
        rooms = {_room(name) for name in named if name != "riskalign"}
        found[_room(own)] = (found.get(_room(own), set()) | rooms) - {_room(own)}
    return found


def files(source: Path) -> dict[str, set[str]]:
    """Each module and the modules that it imports; what is none stands in its package's file."""
    known = modules(source)
    return {
        own: {
            whole if (whole := f"{module}.{name}") in known else module
            for module, name in _imported(path)
        }
        for own, path in known.items()
    }


def test_there_is_no_circle() -> None:
    rooms = graph(SOURCE)
    assert set(ORDER) <= set(rooms)
    placed = list(TopologicalSorter(rooms).static_order())
    assert [room for room in placed if room in ORDER] == list(ORDER)


def test_there_is_no_circle_of_files() -> None:
    imports = files(SOURCE)
    assert "riskalign.pipeline.machine" in imports["riskalign.pipeline.ledger"]
    TopologicalSorter(imports).prepare()


def test_a_circle_would_be_seen(tmp_path: Path) -> None:
    for room, other in (("one", "two"), ("two", "one")):
        (tmp_path / room).mkdir()
        (tmp_path / room / "a.py").write_text(f"def f():\n    from riskalign.{other} import a\n")
    for make in (graph, files):
        with pytest.raises(CycleError):
            TopologicalSorter(make(tmp_path)).prepare()


@pytest.mark.parametrize("line", ["from riskalign.room.a import f", "from riskalign.room import x"])
def test_a_circle_within_a_room_would_be_seen(line: str, tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "__init__.py").write_text("from riskalign.room.a import f\nx = 1\n")
    (tmp_path / "room" / "a.py").write_text("from riskalign.room import b\n")
    (tmp_path / "room" / "b.py").write_text(f"def g():\n    {line}\n")
    TopologicalSorter(graph(tmp_path)).prepare()
    with pytest.raises(CycleError):
        TopologicalSorter(files(tmp_path)).prepare()
