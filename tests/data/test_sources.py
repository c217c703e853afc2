"""Every source gives the same rows; what cannot be read is named."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from riskalign.data import load_pairs
from riskalign.data.sources import is_stream, streamed
from riskalign.errors import InputError

Rows = list[dict[str, Any]]


def write(path: Path, rows: Rows) -> None:
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    text = json.dumps(rows, indent=1) if path.name.split(".", 1)[1] == "json" else lines
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["p.jsonl", "p.json", "p.jsonl.gz", "p.json.gz", "p.parquet", "folder"]
)
def test_files_give_the_rows_written(
    tmp_path: Path, tiny_pairs: Callable[[int], Rows], name: str
) -> None:
    rows, path = tiny_pairs(3), tmp_path / name
    if name == "folder":
        Dataset.from_list(rows).save_to_disk(str(path))
    else:
        write(path, rows)
    assert load_pairs(path).to_list() == rows
    assert load_pairs(str(path)).to_list() == rows


def test_objects_give_the_rows(tiny_pairs: Callable[[int], Rows]) -> None:
    rows = tiny_pairs(3)
    assert load_pairs(rows).to_list() == rows
    assert load_pairs(Dataset.from_list(rows)).to_list() == rows
    splits = DatasetDict(test=Dataset.from_list(rows))
    assert load_pairs(splits, split="test").to_list() == rows
    with pytest.raises(InputError, match=r"no split 'train' .found: test"):
        load_pairs(splits)


def test_byte_order_mark_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    row = '{"prompt": "a", "chosen": "ü", "rejected": "c"}'
    path.write_bytes(b"\xef\xbb\xbf" + f"{row}\n\n{row}\n".encode())
    assert load_pairs(path)["chosen"] == ["ü", "ü"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.jsonl", b'{"chosen": "a", "rejected": "b"}\n{"chosen": "a"}\n', ["line 2", "rejected"]),
        ("p.jsonl", b'{"chosen": "a", "rejected": "b"}\n{"cho\n', ["line 2, column", "not JSON"]),
        ("p.json", b'[{"chosen": "a"}]', ["row 1", "'rejected' is missing"]),
        ("p.json", b'[{"chosen": ]', ["line 1, column", "not JSON"]),
        (
            "p.jsonl",
            b'{"chosen": "a", "rejected": "b"}\n{"chosen": "\xff"}',
            ["line 2, byte 46", "not UTF-8"],
        ),
        (
            "p.jsonl",
            b'{"chosen": "a", "rejected": "b"}\n' + b"[" * 100_000,
            ["line 2", "nested too deep"],
        ),
        ("p.json", b"[" * 100_000, ["nested too deep"]),
        ("p.json", b"[" + b"1" * 6_000 + b"]", ["too many digits"]),
        ("p.jsonl.gz", b"no gzip", ["cannot be read"]),
        ("p.parquet", b"no parquet", ["cannot be read as parquet"]),
        ("p.jsonl", b"\n", ["holds no row"]),
        ("p.jsonl", b'"text"\n', ["line 1", "expected an object"]),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_pairs(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_truncated_gzip_is_named(tmp_path: Path, tiny_pairs: Callable[[int], Rows]) -> None:
    path = tmp_path / "p.jsonl.gz"
    write(path, tiny_pairs(3))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        load_pairs(path)


def test_a_folder_with_a_broken_file_is_named(
    tmp_path: Path, tiny_pairs: Callable[[int], Rows]
) -> None:
    path = tmp_path / "rows" / "train.jsonl.gz"
    path.parent.mkdir()
    write(path, tiny_pairs(3))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="rows: cannot be loaded as a data set"):
        load_pairs(tmp_path / "rows")


def test_missing_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_pairs(tmp_path / "none.jsonl")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "rows.jsonl").write_text('{"chosen": "a"')
    with pytest.raises(InputError, match="broken: cannot be loaded"):
        load_pairs(tmp_path / "broken")
    with pytest.raises(InputError, match="nobody/nothing: cannot be loaded"):
        load_pairs("nobody/nothing")
    with pytest.raises(InputError, match="cannot read preference pairs from dict"):
        load_pairs({"chosen": []})


def test_of_a_stream_the_first_rows_are_taken(
    tiny_pairs: Callable[[int], Rows], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = tiny_pairs(5)
    stream = Dataset.from_list(rows).to_iterable_dataset()
    with pytest.raises(InputError, match=r"is a stream, .* Set max_train_samples"):
        load_pairs(stream)
    assert load_pairs(stream, most=3, name_for_errors="d").to_list() == rows[:3]
    assert "d: the first 3 rows are taken, and no others." in caplog.text
    assert load_pairs(stream, most=9, name_for_errors="d").to_list() == rows
    assert "d: the stream ended after 5 of 9 rows." in caplog.text
    assert load_pairs(rows, most=3).to_list() == rows[:3]
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder / "train.jsonl", rows)
    read = streamed(folder, "train", "d")
    assert is_stream(read)
    assert load_pairs(read, most=5).to_list() == rows
    assert streamed(rows, "train", "d") is rows
