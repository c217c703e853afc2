"""Scores in a file are those of Python; nothing is half-written, and nothing scored twice."""

import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from safetensors.numpy import load_file, save_file

from riskalign.errors import InputError
from riskalign.scorers import Scorer, load_scorer, score_file, train_embedding_scorer
from tests.scorers import toy

ROWS: list[dict[str, Any]] = [
    {"prompt": "hello", "answer": "sorry no", "id": 7},
    {"prompt": [{"role": "user", "content": "what"}], "completion": "the secret code is red"},
    {"prompt": "what ünd", "response": [{"role": "assistant", "content": "blue"}]},
]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    encoder = toy.make_encoder(folder / "bert")
    train_embedding_scorer("cost", toy.judged(30), encoder=encoder, n_boot=5).save(folder / "cost")
    return folder / "cost"


def test_the_file_has_the_scores_of_python(scorer: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    out = tmp_path / "out.jsonl"
    n = score_file(scorer, ROWS, out, update=lambda done, total: told.append((done, total)))
    assert n == 3
    assert told == [(0, 3), (3, 3)]
    written = [json.loads(line) for line in out.read_text().splitlines()]
    answers = ["sorry no", "the secret code is red", "blue"]
    scores = load_scorer(scorer).score([row["prompt"] for row in ROWS], answers)
    assert written == [row | {"cost": score} for row, score in zip(ROWS, scores, strict=True)]
    assert "ü" in out.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]

    packed = tmp_path / "named.jsonl.gz"
    score_file(scorer, out, packed, field="cost_b")  # a second score beside the first
    again = [json.loads(line) for line in gzip.decompress(packed.read_bytes()).splitlines()]
    assert again == [row | {"cost_b": row["cost"]} for row in written]
    with pytest.raises(InputError, match=r"exists\. Give another name, or --overwrite"):
        score_file(scorer, ROWS, out)
    score_file(scorer, ROWS[:1], out, overwrite=True)
    assert len(out.read_text().splitlines()) == 1


def test_an_interrupted_call_is_taken_up(
    scorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("riskalign.scorers.apply._PIECE", 4)
    rows = [{"prompt": f"hello {i}", "answer": toy.COLOURS[i % 5]} for i in range(10)]
    score = Scorer.score
    read: list[int] = []

    def counted(self: Scorer, prompts: Sequence[Any], answers: Sequence[Any]) -> Any:
        read.append(len(prompts))
        if len(read) == 2:
            raise KeyboardInterrupt
        return score(self, prompts, answers)

    monkeypatch.setattr(Scorer, "score", counted)
    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        score_file(scorer, rows, out)
    assert not out.exists()
    score_file(scorer, rows, out)
    assert read == [4, 4, 4, 2], "the first piece was kept"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    resumed = out.read_bytes()
    score_file(scorer, rows, out, overwrite=True)
    assert out.read_bytes() == resumed


def test_what_another_scorer_or_other_rows_left_is_not_taken(
    scorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scorer whose card is the same, but not its weights, scores all anew."""
    monkeypatch.setattr("riskalign.scorers.apply._PIECE", 4)
    other = shutil.copytree(scorer, tmp_path / "other")
    weights = load_file(other / "weights.safetensors")
    save_file(
        {"weights": -weights["weights"], "intercept": weights["intercept"]},
        other / "weights.safetensors",
    )
    rows = [{"prompt": f"hello {i}", "answer": toy.COLOURS[i % 5]} for i in range(10)]
    more = [row | {"answer": "sorry no"} for row in rows]

    def scores(folder: Path, given: list[dict[str, Any]], name: str) -> list[float]:
        score_file(folder, given, tmp_path / name)
        return [json.loads(line)["cost"] for line in (tmp_path / name).read_text().splitlines()]

    def stop(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    wanted = [
        scores(f, g, f"{n}.jsonl") for n, (f, g) in enumerate(((other, rows), (scorer, more)))
    ]
    for n, (folder, given) in enumerate(((other, rows), (scorer, more))):
        out = f"out{n}.jsonl"
        with pytest.raises(KeyboardInterrupt):
            score_file(scorer, rows, tmp_path / out, update=stop)
        assert scores(folder, given, out) == wanted[n]


def test_a_card_that_says_it_reads_nothing_is_refused(scorer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(scorer, tmp_path / "cost")
    card = json.loads((folder / "scorer.json").read_text())
    for family, name in (("embedding", "max_tokens"), ("causal", "max_length")):
        card |= {"family": family, "settings": card["settings"] | {name: 0}}
        (folder / "scorer.json").write_text(json.dumps(card))
        with pytest.raises(InputError, match=f"'settings.{name}' of its card is 0"):
            load_scorer(folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p"}, "line 2: has 0 of the fields answer, completion, response"),
        ({"prompt": "p", "answer": "a", "response": "b"}, "line 2: has 2 of"),
        ({"answer": "a"}, "line 2: field 'prompt' is missing"),
        ({"prompt": "p", "answer": 3}, "line 2: field 'answer' is int"),
        ({"prompt": "p", "answer": "a", "cost": 1}, "line 2: has a field 'cost' already.*--field"),
        ("text", "line 2: expected an object"),
    ],
)
def test_bad_rows_are_refused_before_any_is_scored(
    row: Any, message: str, scorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scorer, "score", None)
    data = tmp_path / "rows.jsonl"
    data.write_text(f"{json.dumps(ROWS[0])}\n{json.dumps(row)}\n")
    with pytest.raises(InputError, match=message):
        score_file(scorer, data, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_what_cannot_be_written_or_read(scorer: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ending in"):
        score_file(scorer, ROWS, tmp_path / "out.csv")
    with pytest.raises(InputError, match="holds no row"):
        score_file(scorer, [], tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="no scorer here"):
        score_file(tmp_path, ROWS, tmp_path / "out.jsonl")
    table = pyarrow.table({"prompt": ["p"], "answer": ["a"], "blob": [b"\x00"]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="row 1: cannot be written as JSON"):
        score_file(scorer, tmp_path / "rows.parquet", tmp_path / "out.jsonl")
    for odd in ("\ud800", float("nan")):
        rows = [*ROWS, ROWS[0] | {"note": odd}]
        with pytest.raises(InputError, match=f"row {len(rows)}: cannot be written as JSON"):
            score_file(scorer, rows, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
