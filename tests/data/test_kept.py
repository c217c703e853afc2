"""Tokenized rows are kept for what they were made of, and made anew for anything else."""

import json
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset

from riskalign.data import Tokenized, is_grouped, kept, stored
from riskalign.data.kept import source_hash, tokenizer_hash
from riskalign.data.schema import PAIRS
from riskalign.data.tokenize import PairCounts, Prepared
from riskalign.errors import InputError
from riskalign.training import RSAConfig, preparation
from tests import tiny

Prepare = Callable[..., Tokenized]


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """`prepare(made=True, source=None, tokenizer=None, **config)`: rows, made now or kept."""
    for room in (kept, stored):
        monkeypatch.setattr(room, "HELD", 2)
    monkeypatch.setattr(kept, "SMALL_FILE", 0)
    monkeypatch.setenv("RISKALIGN_CACHE", str(tmp_path / "cache"))
    rows = tiny.make_pairs(8)
    rows[3]["rejected"] = rows[3]["chosen"]
    rows[4]["prompt"] = []
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    module: Any = preparation
    make = module.tokenize_all

    def prepared(
        made: bool = True, source: Any = None, tokenizer: Any = None, **config: Any
    ) -> Any:
        calls = []

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return make(*args, **kwargs)

        monkeypatch.setattr(preparation, "tokenize_all", counted)
        source = tmp_path / "rows.jsonl" if source is None else source
        args = RSAConfig(output_dir=str(tmp_path / "out"), use_cpu=True, **config)
        tokenizer = tokenizer or tiny.make_tokenizer()
        found = preparation.prepare_rows(source, "rows", tokenizer, tiny.make_model(), args)
        assert bool(calls) == made
        return found

    return prepared


def test_the_second_run_finds_rows_counts_and_what_was_said(
    prepare: Prepare, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = prepare()
    said = [record.message for record in caplog.records]
    assert any("1 of 8 rows have no prompt" in words for words in said)
    assert any("1 dropped identical" in words for words in said)
    caplog.clear()
    second = prepare(made=False)
    assert second.rows.to_list() == first.rows.to_list()
    assert second.counts == first.counts == PairCounts(rows=8, kept=7, dropped_identical=1)
    assert sorted(record.message for record in caplog.records) == sorted(said)
    caplog.clear()
    for made in (True, False):
        prepare(made=made, max_train_samples=6)
    assert caplog.text.count("rows: the first 6 rows are taken, and no others.") == 2
    # A copy elsewhere, and what acts on no token, are the same.
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes((tmp_path / "rows.jsonl").read_bytes())
    prepare(made=False, source=copy, beta=0.5, dataset_num_proc=1)


def test_anything_else_is_made_anew(prepare: Prepare, tmp_path: Path) -> None:
    prepare()
    other = tiny.make_tokenizer()
    other.chat_template = f"{other.chat_template} "
    for config in (
        {"max_length": 40},
        {"target": "gap"},
        {"max_train_samples": 6},
        {"loss_type": "kto", "risk": "mean"},
        {"tokenizer": other},
        {"tokenizer": tiny.make_tokenizer(pad_token=None)},
        {"cache_dataset": False},
    ):
        prepare(**config)
    file = tmp_path / "rows.jsonl"
    file.write_text(file.read_text().replace("day 1", "day 9"))
    prepare()
    assert tokenizer_hash(other) != tokenizer_hash(tiny.make_tokenizer())


def test_what_a_tokenizer_does_is_known_or_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, split, dated, own = (tiny.make_tokenizer() for _ in range(4))
    split.split_special_tokens = True
    assert split("<|im_end|>")["input_ids"] != plain("<|im_end|>")["input_ids"]
    dated.chat_template = f"{{{{ strftime_now('%d') }}}}{dated.chat_template}"
    own.__class__ = type("Own", (type(own),), {"__module__": "transformers_modules.own"})
    assert len({tokenizer_hash(each) for each in (plain, split, dated)}) == 3
    assert tokenizer_hash(own) is None
    of_plain, of_dated = tokenizer_hash(plain), tokenizer_hash(dated)

    tomorrow = SimpleNamespace(today=lambda: "2999-01-01")
    monkeypatch.setattr(kept.datetime, "date", tomorrow)  # type: ignore[attr-defined]
    assert tokenizer_hash(plain) == of_plain
    assert tokenizer_hash(dated) != of_dated


def test_a_file_that_changes_while_it_is_read_is_refused(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"

    def changed(*args: Any, **kwargs: Any) -> bool:
        file.write_text(file.read_text().replace("day 1", "day 11"))
        return is_grouped(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "is_grouped", changed)
        with pytest.raises(InputError, match=r"rows\.jsonl: was changed while it was read"):
            prepare()
    assert not [*tmp_path.glob("cache/rows/*/rows.arrow")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
def test_what_a_killed_process_left_goes_with_the_next_one(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = multiprocessing.get_context("fork").Process(target=prepare)
    with monkeypatch.context() as patch:
        patch.setattr(pa.ipc, "new_stream", lambda *_: os.kill(os.getpid(), 9))
        killed.start()
    killed.join(60)
    assert killed.exitcode == -9
    assert [*tmp_path.glob("cache/rows/.*/rows")]
    prepare(max_length=40)
    assert not [*tmp_path.glob("cache/rows/.*")]


@pytest.mark.parametrize("broken", ["rows.arrow", "about.json"])
def test_what_is_broken_is_made_anew_and_said(
    broken: str, prepare: Prepare, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = prepare().rows.to_list()
    [file] = tmp_path.glob(f"cache/rows/*/{broken}")
    file.write_bytes(file.read_bytes()[:-20])
    assert prepare().rows.to_list() == whole
    assert "is broken and made anew" in caplog.text
    prepare(made=False)


def test_a_cache_that_cannot_be_is_said(
    prepare: Prepare,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RISKALIGN_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert len(prepare().rows) == 7
    assert caplog.text.count("rows cannot be kept there for the next run") == 2


def test_of_two_at_once_one_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISKALIGN_CACHE", str(tmp_path))
    monkeypatch.setattr(stored, "HELD", 2)
    begun, go = threading.Event(), threading.Event()
    made: list[Path | None] = []
    table = Dataset.from_dict({"a": [1, 2, 3]}).data.table

    def make(path: Path | None) -> Prepared:
        made.append(path)
        begun.set()
        assert go.wait(30)
        rows = stored.stored(table.to_batches(), path)
        return Prepared(rows, PairCounts(3, 3), PAIRS, ["a"], 0)

    found: list[tuple[Prepared, bool]] = []
    threads = [
        threading.Thread(target=lambda: found.append(kept.kept({"a": 1}, make))) for _ in range(2)
    ]
    threads[0].start()
    assert begun.wait(30)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert [is_new for _, is_new in found] == [True, False]
    assert [each.rows["a"][:] for each, _ in found] == [[1, 2, 3]] * 2


def test_a_table_counts_by_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "HELD", 2)
    rows = Dataset.from_list(tiny.make_pairs(9))
    rows.save_to_disk(str(tmp_path / "rows"))
    expected = source_hash(rows.select(range(2, 7)))
    assert expected == source_hash(Dataset.from_list(tiny.make_pairs(9)[2:7]))
    assert expected == source_hash(Dataset.load_from_disk(str(tmp_path / "rows")).skip(2).take(5))
    assert expected == source_hash(rows.select([2, 3, 4, 5, 6]))
    assert expected != source_hash(rows.select([2, 3, 4, 6, 5]))
    # A format says which columns rows have, or makes others of them.
    assert expected != source_hash(rows.select(range(2, 7)).with_format(columns=["prompt"]))
    assert source_hash(rows.with_transform(lambda batch: batch)) is None
    assert source_hash(rows.select(range(2))) is source_hash(tiny.make_pairs(9)) is None
