"""One of several processes that a launcher started refuses to do what all of them would do."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from riskalign import align
from riskalign.cli import main
from riskalign.errors import InputError
from riskalign.files.folder import Outputs, hold
from riskalign.files.ranks import place

Make = Callable[..., dict[str, Any]]


@pytest.fixture(params=["WORLD_SIZE RANK", "SLURM_STEP_NUM_TASKS SLURM_PROCID"])
def started(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`started(rank, n)`: as a launcher sets the environment."""
    names = request.param.split()

    def environment(rank: int, n: int) -> None:
        for name, value in zip(names, (n, rank), strict=True):
            monkeypatch.setenv(name, str(value))

    return environment


def test_a_command_says_so_once_and_touches_nothing(
    started: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    said, folder = [], tmp_path / "x"
    for rank in range(2):
        started(rank, 2)
        monkeypatch.setattr(sys, "argv", ["riskalign", "align", "--output_dir", str(folder)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        said.append(capsys.readouterr().err)
    assert said[1] == ""
    assert said[0].count("\n") == 1
    assert "started 2 processes" in said[0]
    assert "launch: {processes: 2}" in said[0]
    assert not folder.exists()


def test_a_script_is_refused_too(started: Callable[..., None], tmp_path: Path) -> None:
    started(1, 2)
    with pytest.raises(InputError, match="started 2 processes"):
        align({"output_dir": str(tmp_path / "x")})
    with pytest.raises(InputError, match="started 2 processes"), hold(tmp_path / "x", Outputs([])):
        pass
    assert not (tmp_path / "x").exists()


def test_one_process_is_none_of_several(started: Callable[..., None]) -> None:
    started(0, 1)
    assert place() == (0, 1)
    started(3, 4)
    assert place() == (3, 4)
