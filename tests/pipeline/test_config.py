"""Values out of range are refused by field; steps and temperatures follow from order and skip."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from riskalign.errors import InputError
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.parse import load_config
from riskalign.pipeline.settings import StepConfig


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("model", {"model": ""}),
        ("beta", {"beta": 0.0}),
        ("beta", {"beta": float("nan")}),
        ("lambda_", {"lambda_": -1.0}),
        ("order", {"order": ()}),
        ("order", {"order": {"helpful", "safe"}}),
        ("seed", {"seed": 2**64}),
        ("safe.loss_options", {"safe": {"loss_options": {"gamma": 1}}}),
        ("order", {"helpful": {"skip": True}, "safe": {"skip": True}}),
        ("helpful.data", {"world": None}),
        ("safe.data", {"world": None, "helpful": {"data": "pairs.jsonl"}}),
        ("safe.risk", {"safe": {"risk": "cvar:1.0"}}),
        ("safe.risk", {"safe": {"loss_type": "tdpo1"}}),
        ("safe.loss_type", {"safe": {"loss_type": "ppo"}}),
        ("safe.learning_rate", {"safe": {"learning_rate": 0.0}}),
        ("safe.beta", {"safe": {"beta": -0.1}}),
        ("safe.alpha", {"safe": {"alpha": -1.0}}),
        ("safe.max_length", {"safe": {"max_length": 1}}),
        ("safe.max_steps", {"safe": {"max_steps": 0}}),
        ("safe.label_smoothing", {"safe": {"label_smoothing": 0.5}}),
        ("safe.label_smoothing", {"safe": {"label_smoothing": 0.1}}),
        ("safe.lr_scheduler_type", {"safe": {"lr_scheduler_type": "zigzag"}}),
        ("safe.warmup_ratio", {"safe": {"warmup_ratio": 1.0}}),
        ("safe.save_steps", {"safe": {"save_steps": 0}}),
        ("safe.sampling.prompts", {"safe": {"sampling": {"prompts": 0}}}),
        ("sampling.answers_per_prompt", {"sampling": {"answers_per_prompt": 1}}),
        ("sampling.temperatures", {"sampling": {"temperatures": (1.0, 0.0)}}),
        ("sampling.temperatures", {"sampling": {"temperatures": ()}}),
        (
            "sampling.answers_per_prompt",
            {"sampling": {"answers_per_prompt": 5, "temperatures": (0.5, 1.0)}},
        ),
        ("sampling.top_p", {"sampling": {"top_p": 0.0}}),
        ("peft.r", {"peft": {"r": 0}}),
        ("peft.lora_dropout", {"peft": {"lora_dropout": 1.0}}),
        ("evaluation.confidence", {"evaluation": {"confidence": 1.0}}),
        ("evaluation.dial", {"evaluation": {"dial": (float("inf"),)}}),
        ("evaluation.risk", {"evaluation": {"risk": "var:0.9"}}),
        ("evaluation.batch_size", {"evaluation": {"batch_size": 0}}),
        (
            "evaluation.sensitivity",
            {"evaluation": {"sensitivity": "0.9", "specificity": "180/200"}},
        ),
        ("evaluation.specificity", {"evaluation": {"sensitivity": "45/50"}}),
    ],
)
def test_out_of_range(field: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"^{field}: "):
        AlignConfig(**settings)


def test_settings_stay_as_they_are_and_have_a_hash() -> None:
    step, other = StepConfig(loss_options={}), StepConfig(loss_options={})
    assert step == other
    assert len({step, other, StepConfig()}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.alpha = 1.0
    given: dict[str, Any] = {"seed": np.int64(3)}
    assert AlignConfig(**given).seed == 3


def test_steps_and_their_names() -> None:
    assert AlignConfig().steps() == [("helpful", "helpful"), ("safe", "safe")]
    reversed_ = AlignConfig(order=("safe", "helpful"))
    assert reversed_.steps() == [("safe", "safe"), ("helpful", "helpful")]
    assert AlignConfig(helpful=StepConfig(skip=True)).steps() == [("safe", "safe")]
    rounds = AlignConfig(order=("helpful", "safe", "safe"))
    assert [name for name, _ in rounds.steps()] == ["helpful", "safe", "safe-2"]
    # A skipped step, or one left out of the order, needs no data.
    assert AlignConfig(world=None, order=("safe",), safe=StepConfig(data="x")).steps()


def test_temperatures_follow_the_schedule_unless_given() -> None:
    config = AlignConfig(beta=0.1, lambda_=2.0, schedule="both")
    assert config.step_beta("helpful") == pytest.approx(0.3)
    assert config.step_beta("safe") == pytest.approx(0.15)
    given = AlignConfig(safe=StepConfig(beta=0.7))
    assert (given.step_beta("helpful"), given.step_beta("safe")) == (0.1, 0.7)


def test_rounds_share_one_tilt() -> None:
    """Two safe rounds at twice the temperature: exp(-c / 2b) twice is exp(-c / b) once."""
    once, twice = AlignConfig(), AlignConfig(order=("helpful", "safe", "safe"))
    assert 2 / twice.step_beta("safe") == pytest.approx(1 / once.step_beta("safe"))
    assert twice.step_beta("helpful") == once.step_beta("helpful")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"world": "vault"}, "world: is given beside data"),
        ({"data": {"path": None}}, "data.path: is null"),
        ({"data": {"path": "x", "eval_fraction": 0.0}}, "data.eval_fraction: is 0"),
        ({"data": {"path": "x"}}, "scoring.reward: is null and data.scorer_fraction is 0"),
        ({"data": {"path": "x", "chat": False}}, "data.chat: is false"),
        ({"data": None, "helpful": {"data": "a"}}, "safe.data: is null"),
        (
            {"data": None, "world": "vault", "scoring": None, "safe": {"own_answers": True}},
            "safe.own_answers: needs",
        ),
        (
            {
                "data": {"path": "x", "chat": False},
                "safe": {"own_answers": True},
                "evaluation": None,
            },
            "data.chat: is false, and a model's own",
        ),
    ],
)
def test_judged_answers_and_what_does_not_go_with_them(
    fields: dict[str, Any], message: str
) -> None:
    judged = {"path": "x", "eval_fraction": 0.2, "scorer_fraction": 0.3}
    job: dict[str, Any] = {
        "world": None,
        "data": judged,
        "scoring": {"encoder": "minilm"},
        "merges": [],
    }
    load_config(job)
    with pytest.raises(InputError, match=message):
        load_config(job | fields)


def test_scoring_needs_data() -> None:
    with pytest.raises(InputError, match="scoring: is given and data is not"):
        AlignConfig(scoring=AlignConfig().scoring_settings())
