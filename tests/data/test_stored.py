"""Many rows go to a file, in one process or several, and nothing about them is another."""

import errno
import multiprocessing
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from riskalign.data import load_pairs, sources, stored, tokenize
from riskalign.data.layout import longest_row, tokenized_answers
from riskalign.data.processes import in_order
from riskalign.data.tokenize import Limits, tokenize_all
from riskalign.errors import InputError
from tests import tiny

Rows = list[dict[str, Any]]


@pytest.fixture
def few_is_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows come by threes, and more than four of them go to a file."""
    monkeypatch.setattr(stored, "HELD", 4)
    for room in (sources, tokenize):
        monkeypatch.setattr(room, "BATCH", 3)


@pytest.mark.usefixtures("few_is_many")
def test_many_rows_come_from_a_file_that_has_no_name() -> None:
    rows = tiny.make_pairs(10)
    found = load_pairs(rows)
    assert found.to_list() == rows
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert "rows.arrow (deleted)" in maps.read_text()
    # Nobody looks for it, or puts files beside it.
    assert found.cache_files == []
    assert pickle.loads(pickle.dumps(found)).to_list() == rows
    assert found.shuffle(seed=0).cache_files == []


@pytest.mark.usefixtures("few_is_many")
def test_what_the_first_rows_have_no_place_for_has_one() -> None:
    rows = tiny.make_pairs(10)
    for row in rows:
        row |= {"tools": None, "score_chosen": None, "score_rejected": None}
    call = {"function": {"name": "find", "arguments": {"day": 3}}}
    rows[7]["chosen"] = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    rows[9]["tools"] = [{"name": "find"}]
    found = load_pairs(rows)
    assert found.to_list() == rows


class _Full:
    """A stream to a disk with room for some batches, and at the end for nothing more."""

    def __init__(self, stream: Any, room: int) -> None:
        self.stream, self.room = stream, room

    def write_batch(self, batch: pa.RecordBatch) -> None:
        self._take()
        self.stream.write_batch(batch)

    def close(self) -> None:
        self._take()
        self.stream.close()

    def _take(self) -> None:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.usefixtures("few_is_many")
@pytest.mark.parametrize("room", [-1, 0, 2, 4])
def test_without_room_rows_are_held_in_memory_which_is_said(
    room: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    new_stream = pa.ipc.new_stream

    def full(sink: Any, schema: Any) -> _Full:
        if room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return _Full(new_stream(sink, schema), room)

    monkeypatch.setattr(pa.ipc, "new_stream", full)
    rows = tiny.make_pairs(10)  # 4 batches
    found = load_pairs(rows)
    assert found.to_list() == rows
    assert found.cache_files == []
    assert caplog.text.count("no room for rows, which are held in memory") == 1


@pytest.mark.usefixtures("few_is_many")
def test_several_processes_make_what_one_makes(tmp_path: Path) -> None:
    rows = tiny.make_pairs(20)
    rows[4]["rejected"] = rows[4]["chosen"]
    rows[11]["chosen"] = [{"role": "assistant", "content": " "}]
    bad = tiny.make_pairs(20)
    for i in (8, 17):
        bad[i]["chosen"] = [{"role": "user", "content": "a"}]
    tokenizer, limits = tiny.make_tokenizer(), Limits(max_length=60)
    one = tokenize_all(rows, tokenizer, limits)
    assert (one.counts.rows, one.counts.dropped_identical, one.counts.dropped_empty) == (20, 1, 1)
    assert one.counts.truncated_prompts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        two = tokenize_all(rows, tokenizer, limits, num_proc=2, path=tmp_path / "rows.arrow")
        with pytest.raises(InputError, match=r"^safe\.data: row 9: a response has a turn of role"):
            tokenize_all(bad, tokenizer, limits, name="safe.data", num_proc=2)
    assert two.rows.to_list() == one.rows.to_list()
    assert two[1:] == one[1:]
    assert two.rows.cache_files[0]["filename"] == str(tmp_path / "rows.arrow")


def _batches_to(n: int) -> Iterator[int]:
    yield from range(n)
    raise InputError("the source")


def _work(batch: int) -> int:
    if batch == 2:
        raise InputError("batch 2")
    return batch


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
def test_the_first_error_is_that_of_one_process() -> None:
    for n, words in ((2, "the source"), (4, "batch 2")):
        for processes in (1, 3):
            found = in_order(_work, _batches_to(n), processes)
            assert [next(found), next(found)] == [0, 1]
            with pytest.raises(InputError, match=words):
                next(found)


def _refused() -> None:
    with pytest.raises(InputError, match="dataset_num_proc: a daemonic process"):
        next(in_order(_work, [0], 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
def test_a_daemon_is_refused() -> None:
    daemon = multiprocessing.get_context("fork").Process(target=_refused, daemon=True)
    daemon.start()
    daemon.join(30)
    assert daemon.exitcode == 0


def test_the_longest_row_is_found() -> None:
    group = {"prompt": "When?", "completions": [" In May.", " Never.", " I cannot say."]}
    groups = [group | {"scores": [1.0, 0.5, 0.0], "prompt": asked} for asked in ("When?", "")]
    for rows in (tiny.make_pairs(7), groups):
        made = tokenize_all(rows, tiny.make_tokenizer(), Limits(max_length=None)).rows
        by_hand = max(
            len(row["prompt_ids"]) + len(ids) for row in made for ids, _ in tokenized_answers(row)
        )
        assert longest_row(made) == by_hand
