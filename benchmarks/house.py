"""How large the source is and how its rooms import each other.

python benchmarks/house.py
git worktree add /tmp/then COMMIT && python benchmarks/house.py /tmp/then
"""

from __future__ import annotations

import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # so that it runs as a script, too
from tests.test_imports import graph

HERE = Path(__file__).parents[1]


def figures(source: Path) -> dict[str, int]:
    """Counts of the package that lies in a folder; lines are those that are not blank."""
    texts = [path.read_text(encoding="utf-8") for path in source.rglob("*.py")]
    lines = [sum(bool(line.strip()) for line in text.splitlines()) for text in texts]
    rooms = graph(source)
    try:
        TopologicalSorter(rooms).prepare()
        circle = 0
    except CycleError:
        circle = 1
    return {
        "lines": sum(lines),
        "files": len(texts),
        "files of 40 lines or fewer": sum(n <= 40 for n in lines),
        "folders of code": len({path.parent for path in source.glob("*/*.py")}),
        "rooms, single modules counted": len(rooms),
        "arrows between them": sum(map(len, rooms.values())),
        "has a circle": circle,
        "dict[str, Any]": sum(text.count("dict[str, Any]") for text in texts),
    }


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for name, figure in figures(root / "src" / "riskalign").items():
        print(f"{figure:8,}  {name}")
