"""Stages know the code that they compute with: which edits make which of them anew."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from riskalign import align
from riskalign.pipeline import sources
from riskalign.pipeline.ledger import Ledger
from riskalign.pipeline.sources import ROOMS, ROOT, code_of, others, room_hash, source_hash
from tests.pipeline.test_run import STAGES, Recorder

EVERY = ("pairs-safe", "train-safe-2", "train-ppo", "evaluate-dial-0.5", "report", "judge-cost")


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, whose sources count from now on."""
    folder = tmp_path / "riskalign"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "ROOT", folder)
    sources._all.cache_clear()
    yield folder
    sources._all.cache_clear()


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    sources._all.cache_clear()


def changed(before: dict[str, dict[str, str]]) -> set[str]:
    return {stage for stage in EVERY if code_of(stage) != before[stage]}


@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        # A loss that is edited makes training anew, and nothing of what comes before.
        (
            "losses/rsa.py",
            "beta * log_ratio(chosen)",
            "2 * beta * log_ratio(chosen)",
            {"train-safe-2", "train-ppo", "judge-cost"},
        ),
        (
            "worlds/pairs.py",
            "def ",
            "X = 1\n\n\ndef ",
            {*EVERY} - {"train-safe-2", "report", "judge-cost"},
        ),
        (
            "tokens/rows.c",
            "0.0f",
            "1.0f",
            {"train-safe-2", "train-ppo", "judge-cost", "evaluate-dial-0.5"},
        ),
        ("evaluation/wording.py", "Final model", "Last model", {"report"}),
        ("evaluation/templates/report.css", "--final", "--last", {"report"}),
        # What a computer does not read.
        ("losses/rsa.py", "    reward_chosen = ", "    # Why.\n\n    reward_chosen  =  ", set()),
        ("losses/rsa.py", "The implicit reward of", "The reward of", set()),
        ("tokens/rows.c", "\n/*", '\n  // Why, as a "string".\n\n/* Why. */ /*', set()),
    ],
)
def test_what_an_edit_makes_anew(
    copy: Path, file: str, old: str, new: str, stages: set[str]
) -> None:
    before = {stage: code_of(stage) for stage in EVERY}
    cell = {room: hash_ for code in before.values() for room, hash_ in code.items()}
    assert others(cell) == []
    edited(copy / file, old, new)
    assert changed(before) == stages
    assert bool(others(cell)) == bool(stages)
    if file == "losses/rsa.py" and stages:
        assert others(cell) == ["losses"]


def test_hashes_are_taken_once(copy: Path) -> None:
    """What is edited while a job runs is not what the job computes with."""
    before = code_of("train-safe")
    path = copy / "losses" / "rsa.py"
    path.write_text(path.read_text().replace("beta *", "2 * beta *"))
    assert code_of("train-safe") == before


def test_a_new_file_in_a_room_counts_and_a_lost_room_too(copy: Path) -> None:
    before = code_of("train-safe")
    (copy / "losses" / "new.py").write_text("")
    sources._all.cache_clear()
    assert others(before) == ["losses"]
    assert others({"attic": "0"}) == ["attic"]


def test_stages_have_their_kinds() -> None:
    assert code_of("train-helpful") == code_of("train-safe-2")
    assert "safe_rlhf" in code_of("train-ppo-2")
    assert "pipeline/sft.py" in code_of("train-sft")
    assert "safe_rlhf" not in code_of("train-helpful")
    assert code_of("prompts · answers-a · b-c") != {}
    for stage in ("accuracy-safe", "label-cost", "scorer-ppo-cost", "drift-x · y", "r_judge-x"):
        assert code_of(stage)
    assert code_of("model") == {}
    with pytest.raises(KeyError):
        code_of("pair-helpful")


def test_a_key_holds_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    keys = [ledger.key(stage, {}) for stage in ("pairs-safe", "train-safe")]
    assert keys[0] != keys[1]
    now = sources._all()
    monkeypatch.setattr(sources, "_all", lambda: now | {"losses": "other"})
    assert ledger.key("pairs-safe", {}) == keys[0]
    assert ledger.key("train-safe", {}) != keys[1]


def test_rooms_exist_and_training_has_all_that_it_imports() -> None:
    rooms = {room for own in ROOMS.values() for room in own}
    assert all((ROOT / room).exists() for room in rooms)
    beside = {"files", "errors", "plugin", "settings", "worlds"}  # which decide no number
    for room in ("data", "losses", "models", "risk", "tokens", "training"):
        for path in (ROOT / room).rglob("*.py"):
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.strip().startswith("from riskalign."):
                    needed = line.split()[1].split(".")[1]
                    assert needed in {*ROOMS["train"], *beside}, f"{path}: {line}"


def test_python_and_c_by_hand(tmp_path: Path) -> None:
    one, other = tmp_path / "a.py", tmp_path / "b.py"
    one.write_text('"""Why."""\n\n\ndef f(x):\n    """Why."""\n    return (x)  # why\n')
    other.write_text("def f( x ): return x\n")
    assert source_hash(one) == source_hash(other)
    other.write_text("def f(x): return -x\n")
    assert source_hash(one) != source_hash(other)
    assert sources._without_comments('a = "/*b*/"; /* c\n */\n\n  d;  // e\n') == (
        'a = "/*b*/";\nd;'
    )
    (tmp_path / "room").mkdir()
    shutil.copy(one, tmp_path / "room" / "a.py")
    first = room_hash(tmp_path / "room")
    (tmp_path / "room" / "a.py").rename(tmp_path / "room" / "c.py")
    assert room_hash(tmp_path / "room") != first


def test_an_edited_loss_trains_anew_on_the_pairs_that_there_are(
    job: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    align(job(evaluation=None))
    now = sources._all()
    monkeypatch.setattr(sources, "_all", lambda: now | {"losses": "other"})
    recorder = Recorder()
    result = align(job(evaluation=None), progress=recorder)
    told = dict(zip(recorder.stages, recorder.notes, strict=True))
    assert told["pairs-helpful"] == "done before"
    assert told["train-helpful"] == told["train-safe"] == ""
    # The loss is the same, so are the weights, and so is what is made of them.
    assert told["pairs-safe"] == "done before"
    assert set(told) < set(STAGES)
    stages = json.loads(result.manifest.read_text())["stages"]
    assert not stages["train-safe"]["reused"]
