"""SafeDPO's pairs in a job: from a world, from a file, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from riskalign import align
from riskalign.data import SafetyRule
from riskalign.errors import InputError
from riskalign.pipeline import load_config
from riskalign.pipeline.tail import sampled_safe_pairs
from riskalign.worlds import Prompt
from riskalign.worlds.pairs import Scored
from tests import tiny

Make = Callable[..., dict[str, Any]]
PROMPTS = [Prompt(name, ({"role": "user", "content": name},)) for name in "ab"]


def test_sampled_answers_by_hand() -> None:
    """By reward x beats y: kept for a, and for b, where x costs 5, swapped."""
    answers = [
        [Scored("x", 1.0, 0.0), Scored("y", 0.0, 5.0), Scored("", 2.0, 0.0)],
        [Scored("x", 1.0, 5.0), Scored("y", 0.0, 0.0)],
    ]
    found, counts = sampled_safe_pairs(PROMPTS, answers, SafetyRule(0.0, 2.0), "here")
    assert [row["chosen"][0]["content"] for row in found.rows] == ["x", "y"]
    assert [row["score_rejected"] for row in found.rows] == [-2.0, -2.0]
    assert counts == {"safety_kept": 1, "safety_swapped": 1, "safety_dropped": 0}
    assert (found.alike, found.empty) == (0, 1)
    with pytest.raises(InputError, match=r"here: helpful.safe_cost -1 leaves no pair: each of the"):
        sampled_safe_pairs(PROMPTS, answers, SafetyRule(-1.0, 2.0), "here")


def given_rows(path: Path, costs: list[tuple[float, float]]) -> str:
    rows = tiny.make_pairs(len(costs))
    for row, (chosen, rejected) in zip(rows, costs, strict=True):
        row |= {"cost_chosen": chosen, "cost_rejected": rejected}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_job_counts_what_became_of_its_pairs(job: Make, tmp_path: Path) -> None:
    data = align(job(evaluation=None), preset="safe-dpo").manifest
    sampled = json.loads(data.read_text())["data"]["helpful"]
    names = ("safety_kept", "safety_swapped", "safety_dropped")
    assert sampled["pairs"] == sampled["safety_kept"] + sampled["safety_swapped"] > 0
    assert sampled["safety_dropped"] >= 0
    path = given_rows(tmp_path / "own.jsonl", [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2)])
    given = job(evaluation=None, output_dir=str(tmp_path / "given"))
    result = align(given, {"helpful.data": path}, preset="safe-dpo")
    found = json.loads(result.manifest.read_text())["data"]["helpful"]
    assert [found[name] for name in names] == [3, 1, 1]
    assert found["pairs"] == 4


def test_a_file_without_costs_is_refused_before_work(job: Make, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tiny.make_pairs(3)))
    with pytest.raises(InputError, match=r"own.jsonl.*'cost_chosen' is missing"):
        align(job(evaluation=None), {"helpful.data": str(path)}, preset="safe-dpo")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"safe.safe_cost": 1.0, "safe.target": "offset"},
            "safe.safe_cost: .*give helpful.safe_cost",
        ),
        ({"helpful.safe_cost": 1.0}, "helpful.safe_cost: .* needs target: offset"),
        (
            {"helpful.safe_cost": float("nan"), "helpful.target": "offset"},
            "safe_cost: nan should be a finite",
        ),
        (
            {"helpful.safe_cost": 1.0, "helpful.target": "offset", "helpful.safety_margin": -1.0},
            "helpful.safety_margin: -1.0 should be greater",
        ),
        (
            {"helpful.safe_cost": 1.0, "helpful.target": "offset", "helpful.rows": "groups"},
            "helpful.safe_cost: .* needs rows: pairs",
        ),
    ],
)
def test_settings_that_do_not_go_together(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_config(None, fields)
