"""What a job is given is checked before any work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from riskalign import align
from riskalign.errors import InputError
from riskalign.pipeline import load_plan, run_plan
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
