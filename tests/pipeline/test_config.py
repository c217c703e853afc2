"""Values out of range are refused by field; steps and temperatures follow from order and skip."""

from typing import Any

import pytest

from riskalign.errors import InputError
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.settings import EvaluationConfig, LoraSettings, SamplingConfig, StepConfig


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("model", {"model": ""}),
        ("beta", {"beta": 0.0}),
        ("beta", {"beta": float("nan")}),
        ("lambda_", {"lambda_": -1.0}),
        ("order", {"order": ()}),
        ("order", {"helpful": StepConfig(skip=True), "safe": StepConfig(skip=True)}),
        ("helpful.data", {"world": None}),
        ("safe.data", {"world": None, "helpful": StepConfig(data="pairs.jsonl")}),
        ("safe.risk", {"safe": StepConfig(risk="cvar:1.0")}),
        ("safe.risk", {"safe": StepConfig(loss_type="tdpo1")}),
        ("safe.loss_type", {"safe": StepConfig(loss_type="ppo")}),
        ("safe.learning_rate", {"safe": StepConfig(learning_rate=0.0)}),
        ("safe.beta", {"safe": StepConfig(beta=-0.1)}),
        ("safe.alpha", {"safe": StepConfig(alpha=-1.0)}),
        ("safe.max_length", {"safe": StepConfig(max_length=1)}),
        ("safe.max_steps", {"safe": StepConfig(max_steps=0)}),
        ("safe.label_smoothing", {"safe": StepConfig(label_smoothing=0.5)}),
        ("safe.label_smoothing", {"safe": StepConfig(label_smoothing=0.1)}),
        ("safe.lr_scheduler_type", {"safe": StepConfig(lr_scheduler_type="zigzag")}),
        ("safe.warmup_ratio", {"safe": StepConfig(warmup_ratio=1.0)}),
        ("safe.save_steps", {"safe": StepConfig(save_steps=0)}),
        ("safe.sampling.prompts", {"safe": StepConfig(sampling=SamplingConfig(prompts=0))}),
        ("sampling.answers_per_prompt", {"sampling": SamplingConfig(answers_per_prompt=1)}),
        ("sampling.temperatures", {"sampling": SamplingConfig(temperatures=(1.0, 0.0))}),
        ("sampling.temperatures", {"sampling": SamplingConfig(temperatures=())}),
        (
            "sampling.answers_per_prompt",
            {"sampling": SamplingConfig(answers_per_prompt=5, temperatures=(0.5, 1.0))},
        ),
        ("sampling.top_p", {"sampling": SamplingConfig(top_p=0.0)}),
        ("peft.r", {"peft": LoraSettings(r=0)}),
        ("peft.lora_dropout", {"peft": LoraSettings(lora_dropout=1.0)}),
        ("evaluation.confidence", {"evaluation": EvaluationConfig(confidence=1.0)}),
        ("evaluation.dial", {"evaluation": EvaluationConfig(dial=(float("inf"),))}),
        ("evaluation.risk", {"evaluation": EvaluationConfig(risk="var:0.9")}),
        ("evaluation.batch_size", {"evaluation": EvaluationConfig(batch_size=0)}),
    ],
)
def test_out_of_range(field: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"^{field}: "):
        AlignConfig(**settings)


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
