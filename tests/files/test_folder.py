"""Only what was made in a folder is replaced there, and by one process at a time."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from riskalign.errors import InputError
from riskalign.files import atomic, folder
from riskalign.files.folder import Outputs, check_outputs, hold, remove_made

OUTPUTS = Outputs(["a.json", "deep/b.json"], ["model", "step/model"], ["work/cell"])


def tree(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in folder.files_below(root)}


@pytest.mark.parametrize(
    "place",
    [
        "a.json",
        "deep/b.json",
        "deep",
        "model",
        "model/x.bin",
        "model/deep/x",
        "step/model/x",
        "work",
    ],
)
def test_a_users_file_in_an_outputs_place_is_refused_before_anything(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("mine")
    before = tree(tmp_path)
    named = re.escape(repr(place))
    with pytest.raises(InputError, match=f"{named}.*did not make it"), hold(tmp_path, OUTPUTS):
        pass
    assert tree(tmp_path) == before


@pytest.mark.parametrize("place", ["deep", "model", "step", "work", "work/cell"])
def test_a_link_that_leads_elsewhere_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "mine").mkdir()
    link = tmp_path / "run" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="lead out"):
        check_outputs(tmp_path / "run", OUTPUTS)


def test_names_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    for name in ("../m", "x/../../m", str(tmp_path / "m")):
        with pytest.raises(InputError, match="lead out"):
            check_outputs(tmp_path, Outputs([name]))


def test_what_was_made_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    for content in ("1", "2"):
        with hold(tmp_path, OUTPUTS):
            atomic.write_text(tmp_path / "a.json", content)
            with atomic.new_folder(tmp_path / "model") as new:
                (new / content).write_text(content)
            (tmp_path / "step").mkdir(exist_ok=True)
            (tmp_path / "step" / "notes").write_text("mine")
    record = tmp_path / folder.OWN / "made.jsonl"
    kept = tree(tmp_path)
    del kept[record.relative_to(tmp_path).as_posix()]
    assert kept == {"a.json": b"2", "model/2": b"2", "step/notes": b"mine"}
    (tmp_path / "model" / "mine").write_text("mine")
    with pytest.raises(InputError, match="model/mine"), hold(tmp_path, OUTPUTS):
        pass
    remove_made(tmp_path)
    assert tree(tmp_path) == {"model/mine": b"mine", "step/notes": b"mine"}
    (tmp_path / "model" / "mine").unlink()


def test_each_replacement_and_removal_asks_the_record(tmp_path: Path) -> None:
    """Also of what came while the folder was held, or that no check foresaw."""
    (tmp_path / "tree").mkdir()
    for name in ("file", "tree/file"):
        (tmp_path / name).write_text("mine")
    before = tree(tmp_path)
    source = tmp_path / "file"
    with hold(tmp_path, Outputs([])):
        with pytest.raises(InputError, match="did not make it"):
            atomic.write_text(tmp_path / "file", "ours")
        with pytest.raises(InputError, match="did not make it"):
            atomic.link_or_copy(source, tmp_path / "tree" / "file")
        with (
            pytest.raises(InputError, match="did not make it"),
            atomic.new_folder(tmp_path / "tree") as new,
        ):
            (new / "file").write_text("ours")
        for name in ("file", "tree"):
            with pytest.raises(InputError, match="did not make it"):
                atomic.remove(tmp_path / name)
    assert tree(tmp_path) == before


def test_inputs_may_not_lie_where_outputs_go(tmp_path: Path) -> None:
    with hold(tmp_path, OUTPUTS), atomic.new_folder(tmp_path / "step" / "model") as new:
        (new / "weights").write_text("ours")
    for name in ("step/model", "step/model/weights"):
        with pytest.raises(InputError, match=r"model .*lies where"):
            check_outputs(tmp_path, OUTPUTS, {"model": tmp_path / name})
    check_outputs(tmp_path, OUTPUTS, {"model": tmp_path / "step", "data": None, "hub": "org/name"})


def test_folders_of_before_there_was_a_record_go_on(tmp_path: Path) -> None:
    outcome = {"files": {"model/weights": "hash"}}
    texts = {
        "finished.json": json.dumps({"model": {"key": "k", "outcome": outcome}}),
        "manifest.json": json.dumps({"schema": 1, "versions": {}}),
        "config.yaml": "",
        "model/weights": "",
        "cells/a-seed0.json": json.dumps({"schema": 1, "versions": {}}),
    }
    (tmp_path / "model").mkdir()
    (tmp_path / "cells").mkdir()
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    outputs = Outputs([name for name in texts if name != "model/weights"], ["model"])
    with hold(tmp_path, outputs):
        pass
    check_outputs(tmp_path, outputs)  # from the record by now
    (tmp_path / "compare.json").write_text('{"mine": 1}')
    with pytest.raises(InputError, match=r"compare\.json"):
        check_outputs(tmp_path, Outputs(["compare.json"]))


_START = """
import sys, time
from pathlib import Path
from riskalign.files import atomic
from riskalign.files.folder import Outputs, hold
root = Path(sys.argv[1])
with hold(root, Outputs(["a"], ["tree"])):
"""
_END = """
    print("there", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def holder(root: Path, body: str = "pass") -> Iterator[int]:
    """A process that holds a folder, by its number; killed at the end."""
    code = _START + textwrap.indent(textwrap.dedent(body), "    ") + _END
    with subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "there\n"
            yield process.pid
        finally:
            process.send_signal(signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with holder(tmp_path) as pid:
        named = rf"process {pid} on \S+, since \d{{4}}-"
        with pytest.raises(InputError, match=named), hold(tmp_path, Outputs(["a"])):
            pass
        with hold(tmp_path, Outputs(["a"]), parts=["-other"]):
            pass
    with hold(tmp_path, Outputs(["a"])):
        pass


def test_what_a_killed_process_had_under_way_is_swept_or_put_back(tmp_path: Path) -> None:
    body = """
    with atomic.new_folder(root / "tree") as new:
        (new / "old").write_text("old")
    real = Path.replace
    def half(self, target):
        if Path(target) == root / "tree":
            print("there", flush=True)
            time.sleep(60)
        return real(self, target)
    Path.replace = half
    with atomic.new_folder(root / "tree") as new:
        (new / "new").write_text("new")
    """
    (tmp_path / "mine").mkdir()
    with holder(tmp_path / "mine", body):
        assert not (tmp_path / "mine" / "tree").exists()  # it has stepped aside
        (tmp_path / "mine" / ".tree-mine").mkdir()
        (tmp_path / "mine" / ".tree-mine" / "x").write_text("mine")
    with hold(tmp_path / "mine", Outputs(["a"], ["tree"])):
        pass
    left = {name for name in tree(tmp_path / "mine") if not name.startswith(folder.OWN)}
    assert left == {"tree/old", ".tree-mine/x"}
    own = [path.name for path in (tmp_path / "mine" / folder.OWN).iterdir()]
    assert own == ["made.jsonl"]


def test_a_disk_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*arguments: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(RuntimeWarning, match="No locks available"), hold(tmp_path, Outputs(["a"])):
        pass


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below"):
        with pytest.raises(InputError, match="output_dir"), hold(tmp_path / name, OUTPUTS):
            pass
