"""results.json: round trip, checks that name the field, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from riskalign.errors import InputError
from riskalign.evaluation.intervals import Interval
from riskalign.evaluation.results import choose_examples, read_results, write_results
from riskalign.evaluation.score import ScoredAnswer
from riskalign.worlds import Prompt
from tests.evaluation.conftest import MakeResults


def test_round_trip(tmp_path: Path, make_results: MakeResults) -> None:
    results = make_results()
    path = tmp_path / "results.json"
    write_results(path, results)
    back = read_results(path)
    rate = results["models"]["final"]["unsafe_rate"]
    assert isinstance(rate, Interval)
    assert back["models"]["final"]["unsafe_rate"] == {
        "value": rate.value,
        "low": rate.low,
        "high": rate.high,
    }
    assert back["examples"] == results["examples"]
    assert back["confidence"] == 0.95
    write_results(path, back)
    assert read_results(path) == back
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_an_interval_may_have_no_end(tmp_path: Path, make_results: MakeResults) -> None:
    results = make_results()
    results["models"]["final"]["cvar_0.99"] = Interval(3.0, 1.0, np.inf)
    results["differences"]["final_minus_start"]["cvar_0.99"] = Interval(-2.0, -np.inf, np.inf)
    path = tmp_path / "results.json"
    write_results(path, results)
    as_json = json.loads(path.read_text())["models"]["final"]["cvar_0.99"]
    assert as_json == {"value": 3.0, "low": 1.0, "high": None}
    back = read_results(path)
    assert back["models"]["final"]["cvar_0.99"]["high"] == np.inf
    assert back["differences"]["final_minus_start"]["cvar_0.99"]["low"] == -np.inf


def test_other_types_become_plain(tmp_path: Path, make_results: MakeResults) -> None:
    path = tmp_path / "results.json"
    costs = {"start": np.array([2.0, 0.5, 0.0])}
    log = {"safe": [{"step": np.int64(1), "loss": float("nan")}]}
    settings = {"path": tmp_path, "order": ("helpful", "safe"), "limit": float("inf")}
    write_results(path, make_results(costs=costs, training=log, settings=settings))
    back = read_results(path)
    assert back["costs"] == {"start": [2.0, 0.5, 0.0]}
    assert back["training"] == {"safe": [{"step": 1, "loss": None}]}
    assert back["settings"] == {
        "path": str(tmp_path),
        "order": ["helpful", "safe"],
        "limit": None,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, r"field schema: Input should be 1, found 2"),
        ({"models": {}}, r"field models: .*at least 1 item"),
        (
            {"models": {"final": {"cost": {"value": 1.0, "low": 0.0, "high": float("nan")}}}},
            r"field models\.final\.cost\.high: Input should be a finite number, found nan",
        ),
        (
            {"models": {"final": {"cost": {"value": 1.0, "low": 2.0, "high": 1.0}}}},
            r"field models\.final\.cost: low 2\.0 is above high 1\.0",
        ),
        (
            {"models": {"final": {"cost": {"value": 1.0, "low": 0.0}}}},
            r"field models\.final\.cost\.high: is missing",
        ),
        (
            {"costs": {"final": [1.0, -0.5]}},
            r"field costs\.final\.1: Input should be greater than or equal to 0, found -0.5",
        ),
        ({"n_prompts": True}, r"field n_prompts: Input should be a valid integer"),
        ({"n_prompts": 0}, r"field n_prompts: Input should be greater than or equal to 1, found 0"),
        ({"title": None}, r"field title: Input should be a valid string, found None"),
        ({"world": 3}, r"field world: Input should be a valid string, found 3"),
        ({"confidence": 95}, r"field confidence: Input should be less than 1, found 95"),
        ({"dial": {}}, r"field dial: Input should be a valid list, found \{\}"),
        ({"dial": [{"w": 1.0}]}, r"field dial\.0\.metrics: is missing"),
        (
            {"training": {"safe": [3]}},
            r"field training\.safe\.0: .* valid dictionary, found 3",
        ),
        (
            {"examples": [{"prompt": [{"role": "user"}], "answers": {}}]},
            r"field examples\.0\.prompt\.0\.content: is missing",
        ),
        ({"settings": {"odd": object()}}, r"not JSON"),
    ],
)
def test_bad_results_are_refused_before_writing(
    change: dict[str, Any], message: str, tmp_path: Path, make_results: MakeResults
) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(InputError, match=message):
        write_results(path, make_results(**change))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"results\.json: line 1: not JSON .*cut short"),
        (b'{"schema": 1,\n "created": "x', r"results\.json: line 2: not JSON"),
        (b"[]", r"results\.json: Input should be .*found \[\]"),
        (b'{"schema": NaN}', r"NaN is not a JSON number"),
        (b"[" * 100_000, r"not usable JSON"),
        (b'{"title": "\xff"}', r"cannot be read"),
        (b'{"schema": 1}', r"field created: is missing.*docs/results\.md"),
    ],
)
def test_broken_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_results(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_results(tmp_path / "results.json")


def test_failed_write_leaves_the_old_file(
    tmp_path: Path, make_results: MakeResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.json"
    write_results(path, make_results(title="old"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_results(path, make_results(title="new"))
    monkeypatch.undo()
    assert json.loads(path.read_text())["title"] == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_a_file_of_before_is_read_as_one_of_today(
    tmp_path: Path, make_results: MakeResults
) -> None:
    """Its last model is called `rsa` wherever models are named."""
    path = tmp_path / "results.json"
    write_results(path, make_results(bounds={"final": {"cvar_0.95": 4.0}}))
    today = json.loads(path.read_text())
    today["seconds"]["evaluate-final"] = 2.0
    path.write_text(json.dumps(today))
    expected = read_results(path)
    before = json.dumps(today).replace('"final', '"rsa').replace("evaluate-final", "evaluate-rsa")
    for method, losses in (("RSA", ["dpo", "rsa2"]), (None, ["dpo", "dpo"])):
        old = json.loads(before)
        del old["method"]
        old["settings"] = {
            kind: {"loss_type": loss}
            for kind, loss in zip(("helpful", "safe"), losses, strict=True)
        }
        path.write_text(json.dumps(old))
        found = read_results(path)
        assert found == expected | {"method": method, "settings": old["settings"]}
    assert {*found["models"]} == {"start", "step1", "final"}
    assert set(found["differences"]) == {"final_minus_start", "final_minus_step1"}
    assert set(found["examples"][0]["answers"]) == {"start", "step1", "final"}
    assert found["seconds"]["evaluate-final"] == 2.0


PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": f"question {i}"},)) for i in range(10)]


def scored(costs: dict[str, list[float]]) -> list[ScoredAnswer]:
    return [
        ScoredAnswer(prompt.id, f"answer {k}", 0.5, cost, 0.0, 0.0, 3)
        for prompt in PROMPTS
        for k, cost in enumerate(costs.get(prompt.id, [0.0, 0.0]))
    ]


def test_failures_come_first_and_the_rest_is_even() -> None:
    """Six places, two models: a third to the final model's failures, a third to the start's, the
    rest evenly over what is left (p0, p1, p2, p4, p5, p6 after four were taken)."""
    start = scored({"p3": [1.0, 9.0], "p7": [20.0, 0.0], "p8": [4.0, 0.0]})
    rsa = scored({"p9": [0.0, 2.0], "p7": [1.0, 0.0]})
    chosen = choose_examples(PROMPTS, {"start": start, "final": rsa}, n=6)
    asked = [entry["prompt"][0]["content"] for entry in chosen]
    assert asked == [f"question {i}" for i in (9, 7, 3, 8, 0, 4)]
    assert chosen[0]["answers"]["final"] == {"text": "answer 1", "reward": 0.5, "cost": 2.0}
    assert chosen[0]["answers"]["start"]["text"] == "answer 0"


def test_more_places_than_prompts() -> None:
    assert len(choose_examples(PROMPTS, {"start": scored({})}, n=99)) == 10
    assert choose_examples([], {"start": []}) == []
    assert len(choose_examples(PROMPTS, {"start": scored({"p1": [3.0]})}, n=1)) == 1
