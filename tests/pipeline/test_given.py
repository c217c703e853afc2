"""What a job is given is checked before any work."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from riskalign import align
from riskalign.data import stored
from riskalign.errors import InputError
from riskalign.pipeline import StepConfig, load_config, load_plan, run_plan
from riskalign.pipeline.given import read_data
from riskalign.training import preparation
from tests import tiny
from tests.data.test_preferences import record, write
from tests.pipeline.test_run import Recorder

Make = Callable[..., dict[str, Any]]


def transcripts(name: str, n: int = 40) -> list[dict[str, str]]:
    return [
        {
            side: f"\n\nHuman: {name} {i}?\n\nAssistant: {answer} {i}"
            for side, answer in (("chosen", "Yes"), ("rejected", "No"))
        }
        for i in range(n)
    ]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            [record(f"box {i}", (2, 1)) for i in range(40)],
            {},
            r"the cost scorer that judges .* every answer is unsafe\..*scoring\.cost",
        ),
        (
            [record(f"box {i}", (2, 0)) for i in range(40)],
            {"scorer_fraction": 0.02},
            r"the reward scorer .* only 1 prompt to train on.*scoring\.reward, .*scorer_fraction",
        ),
        (
            transcripts("open"),
            {"safe_path": "shut.jsonl"},
            r"the cost scorer .*'score_chosen' and 'score_rejected' .*are missing",
        ),
        (
            [record(f"box {i}", (2, 0)) for i in range(40)],
            {"scorer_fraction": 0.001},
            r"the reward scorer .* no label says which answer is better",
        ),
    ],
)
def test_judges_that_cannot_learn_are_found_first(
    rows: list[dict[str, Any]],
    options: dict[str, Any],
    message: str,
    job: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "shut.jsonl", transcripts("shut"))
    write(tmp_path / "rows.jsonl", rows)
    data = {"path": "rows.jsonl", "eval_fraction": 0.2, "scorer_fraction": 0.3} | options
    config = job() | {"world": None, "data": data}
    config["helpful"] |= {"target": "hard"}
    config["safe"] |= {"target": "hard"}
    recorder = Recorder()
    with pytest.raises(InputError, match=rf"^data\.path: rows\.jsonl: {message}"):
        align(config, progress=recorder)
    assert recorder.stages == []
    with pytest.raises(InputError, match=message):
        run_plan(load_plan(config | {"compare": {"presets": ["sacpo"]}}))


def test_given_rows_are_tokenized_once(
    job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job(world=None, evaluation=None, order=["helpful", "safe", "safe"])
    for name, n, kind, field in (
        ("one", 8, "helpful", "data"),
        ("two", 9, "safe", "data"),
        ("three", 4, "safe", "eval_data"),
    ):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in tiny.make_pairs(n)))
        config[kind] |= {field: str(path), "max_gap": 0.5}
    module: Any = preparation
    real, seen = module.tokenize_all, list[int]()

    def counted(*arguments: Any, **options: Any) -> Any:
        made = real(*arguments, **options)
        seen.append(made.counts.rows)
        return made

    def made(name: str) -> Any:
        """What a job's stages came to."""
        result = align(config | {"output_dir": str(tmp_path / name)})
        stages = json.loads(result.manifest.read_text())["stages"]
        names = ("fingerprint", "data", "found")
        return {stage: [stages[stage].get(name) for name in names] for stage in stages}

    monkeypatch.setattr(preparation, "tokenize_all", counted)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    stages = made("run")
    assert seen == [8, 9, 4]
    # The same where the rows are read from files, and those are gone at the end.
    monkeypatch.setattr(stored, "HELD", 2)
    assert made("again") == stages
    assert seen[3:] == [8, 9, 4]
    assert not any((tmp_path / "temporary").iterdir())


def test_of_a_steps_data_the_first_rows_are_read(job: Make, tmp_path: Path) -> None:
    config = job(world=None, evaluation=None)
    (tmp_path / "rows").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in tiny.make_pairs(9))
    for path in (tmp_path / "rows.jsonl", tmp_path / "rows" / "train.jsonl"):
        path.write_text(lines)
    config["helpful"] |= {"data": str(tmp_path / "rows.jsonl"), "max_train_samples": 5}
    config["safe"] |= {"data": str(tmp_path / "rows"), "dataset_streaming": True}
    with pytest.raises(InputError, match=r"rows: is a stream, .*max_train_samples"):
        read_data(load_config(config))
    config["safe"] |= {"max_train_samples": 4}
    given = read_data(load_config(config)).given
    assert {kind: rows.to_list() for kind, rows in given.items()} == {
        "helpful": tiny.make_pairs(9)[:5],
        "safe": tiny.make_pairs(9)[:4],
    }
    with pytest.raises(InputError, match="max_train_samples: needs data"):
        StepConfig(max_train_samples=3)
