"""Malformed rows, for every command that reads some, and the places that files lie at."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests import tiny
from tests.guards.harness import WORLD, Case, Make, case

_TRAIN = "train --step safe --model {sound} --output_dir {out} --safe.data {here}/rows.jsonl"
_ROW = tiny.make_pairs(1)[0]


def _lines(*rows: Any) -> Make:
    def make(here: Path) -> None:
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        (here / "rows.jsonl").write_bytes(text.encode("utf-8", "surrogatepass"))

    return make


def _bytes(content: bytes, name: str = "rows.jsonl") -> Make:
    return lambda here: (here / name).write_bytes(content)


def _without(field: str) -> dict[str, Any]:
    return {k: v for k, v in _ROW.items() if k != field}


#: The second of three pairs, and what is named beside file and row.
_PAIRS: dict[str, tuple[Any, str]] = {
    "cut off": ('{"prompt": "a", "chosen"', "2"),
    "a list": ([1, 2], "2"),
    "a number": (3, "2"),
    "null": ("null", "2"),
    "empty": ({}, "prompt"),
    "nested a thousand deep": ("[" * 5000 + "]" * 5000, "2"),
    "a group a thousand deep": ('{"a":' * 5000 + "1" + "}" * 5000, "2"),
    "a key twice": (json.dumps(_ROW)[:-1] + ', "prompt": "b"}', "prompt"),
    "beyond floats": (json.dumps(_without("score_chosen"))[:-1] + ', "score_chosen": 1e999}', "score_chosen"),
    "400 digits": (json.dumps(_without("score_chosen"))[:-1] + ', "score_chosen": ' + "9" * 400 + "}", "score_chosen"),
    "5000 digits": (json.dumps(_without("score_chosen"))[:-1] + ', "score_chosen": ' + "9" * 5000 + "}", "2"),
    "no chosen": (_without("chosen"), "chosen"),
    "no rejected": (_without("rejected"), "rejected"),
    "prompt a number": (_ROW | {"prompt": 3}, "prompt"),
    "prompt a group": (_ROW | {"prompt": {"role": "user"}}, "prompt"),
    "messages of words": (_ROW | {"prompt": ["hello"]}, "prompt"),
    "a message without role": (_ROW | {"prompt": [{"content": "a"}]}, "role"),
    "a message without content": (_ROW | {"prompt": [{"role": "user"}]}, "content"),
    "content a list": (_ROW | {"prompt": [{"role": "user", "content": [1]}]}, "content"),
    "content a number": (_ROW | {"prompt": [{"role": "user", "content": 1}]}, "content"),
    "role a number": (_ROW | {"prompt": [{"role": 1, "content": "a"}]}, "role"),
    "chosen by the user": (_ROW | {"chosen": [{"role": "user", "content": "a"}]}, "safe.data row 2"),
    "chosen empty": (_ROW | {"chosen": []}, "chosen"),
    "chosen a number": (_ROW | {"chosen": 3}, "chosen"),
    "chosen plain where prompt is not": (_ROW | {"chosen": "a"}, "chosen"),
    "a score of text": (_ROW | {"score_chosen": "high"}, "score_chosen"),
    "a score of NaN": (json.dumps(_ROW | {"score_chosen": float("nan")}), "score_chosen"),
    "a score of truth": (_ROW | {"score_chosen": True}, "score_chosen"),
    "a score alone": (_without("score_rejected"), "score_rejected"),
    "a surrogate": ('{"prompt": "\\ud800", "chosen": "b", "rejected": "c"}', "prompt"),
}  # fmt: skip

_FILES: dict[str, tuple[Make, str]] = {
    "empty": (_bytes(b""), ""),
    "blank lines": (_bytes(b"\n\n\n"), ""),
    "latin-1": (_bytes('{"prompt": "\xe9"}'.encode("latin-1")), "1"),
    "utf-16": (_bytes('{"prompt": "a"}'.encode("utf-16")), ""),
    "zeros": (_bytes(b"\0" * 1000), ""),
    "binary": (_bytes(bytes(range(256)) * 4), ""),
    "a folder": (lambda here: (here / "rows.jsonl").mkdir(), ""),
    "a broken link": (lambda here: (here / "rows.jsonl").symlink_to(here / "gone"), ""),
    "a link to itself": (lambda here: (here / "rows.jsonl").symlink_to(here / "rows.jsonl"), ""),
}


def _parquet(content: bytes | pa.Table) -> Make:
    def make(here: Path) -> None:
        if isinstance(content, bytes):
            (here / "rows.parquet").write_bytes(content)
        else:
            pq.write_table(content, here / "rows.parquet")

    return make


def _bad_utf8() -> pa.Table:
    raw = pa.array([b"fine", b"\xff\xfe"], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    return pa.table({"prompt": bad, "chosen": bad, "rejected": bad})


_OTHER: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "parquet of words": ("rows.parquet", _parquet(b"hello"), ""),
    "parquet cut off": ("rows.parquet", _parquet(b"PAR1" + b"\0" * 50), ""),
    "parquet of bad UTF-8": ("rows.parquet", _parquet(_bad_utf8()), ""),
    "parquet without columns": ("rows.parquet", _parquet(pa.table({})), ""),
    "parquet of numbers": (
        "rows.parquet",
        _parquet(pa.table({"prompt": [1], "chosen": [2], "rejected": [3]})),
        "row 1",
    ),
    "csv with a heading twice": (
        "rows.csv", _bytes(b"prompt,prompt,chosen,rejected\na,b,c,d\n", "rows.csv"), "",
    ),
    "csv without heading": ("rows.csv", _bytes(b"", "rows.csv"), ""),
    "csv with longer rows": (
        "rows.csv", _bytes(b"prompt,chosen,rejected\na,b,c,d,e\n", "rows.csv"), "",
    ),
    "csv with bad UTF-8": (
        "rows.csv", _bytes(b"prompt,chosen,rejected\n\xff,b,c\n", "rows.csv"), "",
    ),
    "gzip of words": ("rows.jsonl.gz", _bytes(b"hello", "rows.jsonl.gz"), ""),
    "gzip cut off": (
        "rows.jsonl.gz", _bytes(gzip.compress(b'{"prompt": "a"}' * 100)[:40], "rows.jsonl.gz"), "",
    ),
    "json of a word": ("rows.json", _bytes(b'"hello"', "rows.json"), ""),
    "json cut off": ("rows.json", _bytes(b'[{"prompt":', "rows.json"), ""),
    "json nested": ("rows.json", _bytes(b"[" * 100_000, "rows.json"), ""),
    "an unknown kind": ("rows.xlsx", _bytes(b"PK", "rows.xlsx"), ""),
    "a text file": ("rows.txt", _bytes(b"hello", "rows.txt"), ""),
}  # fmt: skip

#: Commands that read rows of their own kinds, and the file's place in them.
_READERS = {
    "data": "data {here}/rows.jsonl",
    "plan": "plan --answers {here}/rows.jsonl",
    "score train": "score train --kind cost --data {here}/rows.jsonl --out {out}",
    "judge": "judge --answers a={here}/rows.jsonl --answers b={here}/rows.jsonl "
    "--base_url http://127.0.0.1:1/v1 --judge_model m --output_dir {out} --dry_run",
    "evaluate": "evaluate --model {sound} --prompts {here}/rows.jsonl --output_dir {out}",
    "sft": "align --model {sound} --output_dir {out} --helpful.data {here}/rows.jsonl "
    "--safe.data {here}/rows.jsonl --world null --evaluation null",
}

_ANY: dict[str, Make] = {
    "cut off": _lines('{"prompt": "a"'),
    "a list": _lines([1]),
    "nested": _lines("[" * 5000),
    "5000 digits": _lines('{"prompt": ' + "9" * 5000 + "}"),
    "NaN prompt": _lines('{"prompt": NaN}'),
    "unknown fields": _lines({"alpha": 1}),
    "a key twice": _lines('{"prompt": "a", "prompt": "b"}'),
    "null fields": _lines(dict.fromkeys(("prompt", "response", "chosen", "cost", "reward"))),
    "bad UTF-8": _bytes(b'{"prompt": "\xff"}'),
    "nothing": _bytes(b""),
}

#: Sampled answers with scores, for `plan --answers`.
_ANSWER = {"prompt_id": "p", "reward": 1.0, "cost": 0.0}
_ANSWERS: dict[str, tuple[Any, str]] = {
    "no prompt_id": ({"reward": 1.0, "cost": 0.0}, "prompt_id"),
    "prompt_id a list": (_ANSWER | {"prompt_id": [1]}, "prompt_id"),
    "cost below 0": (_ANSWER | {"cost": -1.0}, "cost"),
    "cost NaN": (json.dumps(_ANSWER | {"cost": float("nan")}), "cost"),
    "cost infinite": (json.dumps(_ANSWER | {"cost": float("inf")}), "cost"),
    "cost text": (_ANSWER | {"cost": "1"}, "cost"),
    "cost of 400 digits": ('{"prompt_id": "p", "reward": 1.0, "cost": ' + "9" * 400 + "}", "cost"),
    "reward null": (_ANSWER | {"reward": None}, "reward"),
    "reward truth": (_ANSWER | {"reward": True}, "reward"),
    "no cost": ({"prompt_id": "p", "reward": 1.0}, "cost"),
}


def cases() -> list[Case]:
    """All of them."""
    sound = _ROW
    found = [
        case(
            f"pair {name}",
            f"{_TRAIN} {WORLD}",
            words if words.startswith("safe.data") else f"rows.jsonl {words}",
            _lines(sound, row, sound),
        )
        for name, (row, words) in _PAIRS.items()
    ]
    found += [
        case(f"rows {name}", f"{_TRAIN} {WORLD}", f"rows.jsonl {words}", make)
        for name, (make, words) in _FILES.items()
    ]
    found += [
        case(name, f"{_TRAIN} {WORLD}".replace("rows.jsonl", file), f"{file} {words}", make)
        for name, (file, make, words) in _OTHER.items()
    ]
    found += [
        case(f"{command} {name}", words, "rows.jsonl", make)
        for command, words in _READERS.items()
        for name, make in _ANY.items()
    ]
    found += [
        case(
            f"prompts.csv {name}",
            _READERS["evaluate"].replace(".jsonl", ".csv"),
            "rows.csv",
            _bytes(text, "rows.csv"),
        )
        for name, text in {
            "a heading twice": b"prompt,prompt,category\na,b,c\n",
            "no heading of ours": b"a,b\nc,d\n",
            "longer rows": b"prompt,category\na,b,c,d\n",
            "bad UTF-8": b"prompt,category\n\xff,b\n",
            "nothing": b"",
        }.items()
    ]
    found += [
        case(f"answers {name}", _READERS["plan"], f"rows.jsonl {words}", _lines(_ANSWER, row))
        for name, (row, words) in _ANSWERS.items()
    ]
    long = "n" * 300
    for command, words in {"train": f"{_TRAIN} {WORLD}", **_READERS}.items():
        for name, place in {
            "missing": "none.jsonl",
            "too long a name": f"{long}.jsonl",
            "under a file": "file/rows.jsonl",
        }.items():
            found.append(
                case(
                    f"{command} {name}",
                    words.replace("rows.jsonl", place),
                    place[:40],
                    lambda here: (here / "file").write_text("x"),
                )
            )
    return found
