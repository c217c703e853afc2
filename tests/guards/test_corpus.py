"""Every malformed input of the corpus ends in one line, exit code 2, before any work."""

from pathlib import Path

import pytest

from tests.guards import configs, folders, kit, rows, runs
from tests.guards.harness import Case, case, faults

CASES = [each for module in (configs, rows, folders, runs) for each in module.cases()]


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit: made once, broken in copies."""
    folder = tmp_path_factory.mktemp("sound") / "kit"
    kit.make(folder)
    return folder


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_it_ends_as_it_must(each: Case, sound: Path, tmp_path: Path) -> None:
    (tmp_path / "kit").symlink_to(sound)
    assert faults(each, tmp_path / "here", sound) == []


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        ("presets", "exit code 0"),
        (
            "align --model {sound} --output_dir {out} --world=tests.pipeline.conftest:Letters",
            "WorkBegan",
        ),
        ("align --model {here}/none --output_dir {out}", "'named' is not named"),
    ],
)
def test_what_is_wrong_is_seen(command: str, seen: str, sound: Path, tmp_path: Path) -> None:
    found = faults(case("planted", command, "named"), tmp_path / "here", sound)
    assert any(seen in fault for fault in found)
