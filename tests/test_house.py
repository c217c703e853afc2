"""The counts of a small package that is made on the spot."""

from pathlib import Path

from benchmarks.house import figures


def test_counts(tmp_path: Path) -> None:
    for room, other in (("one", "two"), ("two", "three"), ("three", "one")):
        (tmp_path / room).mkdir()
        (tmp_path / room / "a.py").write_text(f"import riskalign.{other}.a\n\nX: dict[str, Any]\n")
    (tmp_path / "errors.py").write_text("\n" + "X = 1\n" * 41)
    found = figures(tmp_path)
    assert found == {
        "lines": 47,
        "files": 4,
        "files of 40 lines or fewer": 3,
        "folders of code": 3,
        "rooms, single modules counted": 4,
        "arrows between them": 3,
        "has a circle": 1,
        "dict[str, Any]": 3,
    }
    (tmp_path / "three" / "a.py").write_text("")
    assert figures(tmp_path)["has a circle"] == 0
