"""Rows from a model's own answers, and the risk of whole answers in them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from riskalign.data import load_groups, load_pairs
from riskalign.errors import InputError
from riskalign.files.atomic import write_json_lines
from riskalign.models import LoadedModel, fingerprint
from riskalign.models.backends import BACKENDS
from riskalign.models.sampling import sample
from riskalign.pipeline.settings import SamplingConfig, StepConfig
from riskalign.pipeline.step_data import sample_rows
from riskalign.pipeline.tail import TailAim
from tests import tiny
from tests.pipeline.conftest import Letters

SAMPLING = SamplingConfig(prompts=5, answers_per_prompt=4, max_new_tokens=6, batch_size=8)
STEP = StepConfig()


def _loaded() -> LoadedModel:
    return LoadedModel(tiny.make_model(), tiny.make_tokenizer(), "tiny", "")


def test_pairs_are_ranked_by_the_world_and_read_back(tmp_path: Path) -> None:
    world, loaded = Letters(), _loaded()
    before = fingerprint(loaded.model)
    rows, counts, _ = sample_rows(world, loaded, "helpful", SAMPLING, STEP, bf16=False, seed=1)
    assert counts["answers"] == 20
    assert counts["pairs"] == len(rows) <= 5
    assert 0 < counts["mean_reward"] < 1
    for row in rows:
        assert row["score_chosen"] > row["score_rejected"]
        prompt = world.prompts("train", 1, 1)[0]
        assert world.reward(prompt, row["chosen"][0]["content"]) == row["score_chosen"]
    assert fingerprint(loaded.model) == before
    write_json_lines(tmp_path / "pairs.jsonl", rows)
    assert len(load_pairs(tmp_path / "pairs.jsonl")) == len(rows)
    assert sample_rows(world, loaded, "helpful", SAMPLING, STEP, bf16=False, seed=1)[0] == rows
    assert sample_rows(world, loaded, "helpful", SAMPLING, STEP, bf16=False, seed=2)[0] != rows


def test_answers_are_split_over_the_temperatures(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, int]] = []
    told: list[tuple[int, int]] = []

    def recorded(*arguments: Any, **options: Any) -> Any:
        asked.append((options["temperature"], options["answers_per_prompt"]))
        return sample(*arguments, **options)

    monkeypatch.setitem(BACKENDS, "transformers", recorded)
    both = dataclasses.replace(SAMPLING, temperatures=(0.5, 2.0))
    _, counts, _ = sample_rows(
        Letters(), _loaded(), "helpful", both, STEP, bf16=False, seed=1,
        update=lambda n, total, note: told.append((n, total)),
    )  # fmt: skip
    # Two parts, of four prompts and of one.
    assert asked == [(0.5, 2), (2.0, 2), (0.5, 2), (2.0, 2)]
    assert counts["answers"] == 20
    assert [n for n, _ in told] == [8, 16, 18, 20]
    assert {total for _, total in told} == {20}


class Priced(Letters):
    """Each letter e costs one."""

    def cost(self, prompt: Any, answer: str) -> float:
        return float(sum(ord(c) % 5 for c in answer)) / 3


AIM = TailAim(risk="cvar:0.8", limit=None, beta=0.5, gap_scale=1.0)


def test_groups_carry_minus_what_the_measure_charges(tmp_path: Path) -> None:
    rows, counts, plan = sample_rows(
        Priced(),
        _loaded(),
        "safe",
        SAMPLING,
        StepConfig(rows="groups", anchors=1.0),
        bf16=False,
        seed=1,
        aim=AIM,
    )
    assert plan is not None
    assert counts["groups"] == len(rows)
    world = Priced()
    prompt = world.prompts("train", 1, 1)[0]
    charged, threshold = [], plan.summary["threshold"]
    assert threshold is not None
    for row in rows:
        for message, score in zip(row["completions"], row["scores"], strict=True):
            cost = world.cost(prompt, message[0]["content"])
            # CVaR 0.8 charges five times what exceeds the threshold.
            expected = 5 * max(0.0, cost - threshold)
            assert -score == pytest.approx(expected)
            charged.append(score < 0)
    assert any(charged)
    assert not all(charged)
    write_json_lines(tmp_path / "groups.jsonl", rows)
    assert load_groups(str(tmp_path / "groups.jsonl"))["scores"] == [r["scores"] for r in rows]


def test_pairs_hold_the_tail_and_anchors() -> None:
    sampling = dataclasses.replace(SAMPLING, prompts=40, answers_per_prompt=2)
    rows, counts, plan = sample_rows(
        Priced(), _loaded(), "safe", sampling, StepConfig(anchors=0.5), bf16=False, seed=1, aim=AIM
    )
    gaps = [row["score_chosen"] - row["score_rejected"] for row in rows]
    assert sum(gap == 0 for gap in gaps) == counts["anchors"] > 0
    assert all(gap >= 0 for gap in gaps)
    assert counts["pairs"] == len(rows)
    assert plan is not None
    assert plan.summary["predicted"]["risk"] < plan.summary["sampled"]["risk"]


def test_a_tail_that_no_answer_is_in_is_said() -> None:
    """Where a tilt is too weak to take the largest cost below 5 %, nothing is best charged."""

    class Rare(Letters):
        def cost(self, prompt: Any, answer: str) -> float:
            return float(len(answer) % 2)

    aim = TailAim(risk="cvar:0.95", limit=None, beta=100.0, gap_scale=1.0)
    with pytest.raises(InputError, match=r"above 1\.0.*Raise lambda_"):
        sample_rows(Rare(), _loaded(), "safe", SAMPLING, STEP, bf16=False, seed=1, aim=aim)
