"""Rare harm through the dial of two tiny models: log probabilities, the whole way, refusals."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from riskalign.errors import InputError
from riskalign.evaluation.dial_scores import dial_log_probs
from riskalign.files.atomic import read_json_lines
from riskalign.models import save_model
from riskalign.models.dial import dial
from riskalign.models.sampling import prompt_token_ids, sample
from riskalign.pipeline import AlignConfig, evaluate_rare, load_config
from riskalign.pipeline.rare import settings_of
from riskalign.pipeline.settings import EvaluationConfig
from tests import tiny
from tests.pipeline.conftest import Letters


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("shared", [True, False])
def test_log_probs_are_the_dials_own(kind: str, shared: bool) -> None:
    if shared and kind == "gemma2":
        pytest.skip("does not share prompts")
    one, two = (tiny.make_model(kind, seed=seed) for seed in (1, 2))
    tokenizer, prompts = tiny.make_tokenizer(), Letters().prompts("eval", 3, 0)
    answers = sample(one, tokenizer, prompts, answers_per_prompt=2, max_new_tokens=7)
    settings = [1.0, 0.5, 0.0, -0.5]
    seen: list[int] = []
    found = dial_log_probs(
        prompts, answers, model_1=one, model_2=two, settings=settings, tokenizer=tokenizer,
        shared_prompt=shared, progress=lambda n, _: seen.append(n),
    )  # fmt: skip
    assert seen[-1] == 6
    rows = iter(found)
    for prompt, own in zip(prompts, answers, strict=True):
        start = prompt_token_ids(tokenizer, prompt)
        for answer in own:
            ids = torch.tensor([start + answer.token_ids])
            wanted = []
            for w in settings:
                logs = dial(one, two, w)(ids).logits[0, len(start) - 1 : -1]
                wanted.append(logs.gather(-1, ids[0, len(start) :, None]).sum())
            torch.testing.assert_close(
                next(rows), torch.stack(wanted).double(), rtol=1e-4, atol=1e-3
            )


def test_shares_of_the_settings() -> None:
    four = EvaluationConfig(answers_per_prompt=4)
    assert settings_of(four, 1.0, None) == ([1.0, 0.25, 0.5], [1, 2, 1])
    assert settings_of(four, 1.0, [0.8]) == ([1.0, 0.8], [1, 3])
    eight = EvaluationConfig(answers_per_prompt=8)
    assert settings_of(eight, 1.5, [1, 0, 0]) == ([1.5, 1, 0], [2, 3, 3])


@pytest.mark.parametrize(
    ("evaluation", "w", "looser", "words"),
    [
        ({"temperature": 0.7}, 1.0, None, "temperature"),
        ({"top_p": 0.9}, 1.0, None, "top_p"),
        ({"answers_per_prompt": 2}, 1.0, None, "at least 3"),
        ({}, 0.5, [0.5], "below w, 0.5"),
        ({}, 1.0, [], "nothing is given"),
        ({}, 1.0, [float("nan")], "w"),
    ],
)
def test_what_cannot_be_weighed(
    evaluation: dict[str, Any], w: float, looser: list[float] | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        settings_of(EvaluationConfig(**evaluation), w, looser)


@pytest.fixture
def config(job: Callable[..., dict[str, Any]], tmp_path: Path) -> AlignConfig:
    for seed in (1, 2):
        save_model(tiny.make_model(seed=seed), tiny.make_tokenizer(), tmp_path / str(seed))
    made = load_config(None, [f"{key}={json.dumps(value)}" for key, value in job().items()])
    assert made.evaluation is not None
    evaluation = dataclasses.replace(made.evaluation, prompts=80, answers_per_prompt=4)
    return dataclasses.replace(made, evaluation=evaluation)


def test_the_whole_way(config: AlignConfig, tmp_path: Path) -> None:
    models: dict[str, Any] = {"step1": str(tmp_path / "1"), "final": str(tmp_path / "2")}
    path = evaluate_rare(config, **models, looser=[0.9, 0.8])
    found = json.loads(path.read_text())
    rows = read_json_lines(path.parent / "evaluation" / "rare.jsonl")
    assert [row["w"] for row in rows[:4]] == [1.0, 0.9, 0.9, 0.8]
    assert len({row["prompt_id"] for row in rows[:4]}) == 1
    assert len(rows) == found["rare"]["answers"] == 320
    assert found["method"] == "importance"
    assert (found["counts"], found["own"]["answers"]) == ([1, 2, 1], 80)
    rare = found["rare"]
    assert rare["largest_weight"] <= 4
    assert rare["mean_weight"] == pytest.approx(1, abs=0.15)
    assert rare["effective"]["all"] > 200
    own = sum(row["cost"] > 0 for row in rows[::4]) / 80
    assert found["own"]["unsafe_rate"]["value"] == pytest.approx(own)
    for key in ("unsafe_rate", "cvar_0.95", "cvar_0.99"):
        assert rare[key]["low"] <= rare[key]["value"] <= rare[key]["high"]
    assert set(found["bounds"]) == {"unsafe_rate"}  # the world has no largest cost
    # Both measure the same: the intervals overlap.
    for one, other in ((rare, found["own"]), (found["own"], rare)):
        assert one["unsafe_rate"]["low"] <= other["unsafe_rate"]["high"]
    stages = json.loads((path.parent / "manifest.json").read_text())["stages"]
    evaluate_rare(config, **models, looser=[0.9, 0.8])
    again = json.loads((path.parent / "manifest.json").read_text())["stages"]
    assert not stages["rare"]["reused"]
    assert again["rare"]["reused"]
    assert json.loads(path.read_text())["rare"] == rare


def test_without_a_dial_it_is_plain_sampling(config: AlignConfig, tmp_path: Path) -> None:
    path = evaluate_rare(config, final=str(tmp_path / "2"))
    found = json.loads(path.read_text())
    assert (found["method"], found["rare"], found["looser"]) == ("plain", None, [])
    assert found["own"]["answers"] == 320
    with pytest.raises(InputError, match="Give --step1"):
        evaluate_rare(config, final=str(tmp_path / "2"), looser=[0.5])


def test_nothing_is_written_where_the_effective_size_is_too_small(
    config: AlignConfig, tmp_path: Path
) -> None:
    assert config.evaluation is not None
    few = dataclasses.replace(config.evaluation, prompts=10)
    models: dict[str, Any] = {"step1": str(tmp_path / "1"), "final": str(tmp_path / "2")}
    with pytest.raises(InputError, match="40 answers in all"):
        evaluate_rare(dataclasses.replace(config, evaluation=few), **models)
    few = dataclasses.replace(few, prompts=26)  # 104 answers, of models that have little in common
    with pytest.raises(InputError, match=r"effective size of the 104 .* needs 100"):
        evaluate_rare(dataclasses.replace(config, evaluation=few), **models, looser=[-2.0])
    assert not (tmp_path / "run" / "rare.json").exists()
