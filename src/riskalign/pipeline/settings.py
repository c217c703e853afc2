"""The groups of a job's configuration: what a step, sampling, an adapter, an evaluation need."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field
from transformers.trainer_utils import SchedulerType

from riskalign.data import Kind as Kind
from riskalign.data.tokenize import TruncationMode
from riskalign.errors import FieldError as FieldError
from riskalign.evaluation import get_metrics
from riskalign.losses import ORDERED, UNPAIRED
from riskalign.models.merge import LARGEST_WEIGHT
from riskalign.models.sampling import Backend
from riskalign.pipeline.methods import check_kind
from riskalign.risk import answer_risk
from riskalign.settings import (
    LISTED,
    Between,
    Count,
    Flag,
    NotLess,
    NotNegative,
    Number,
    Positive,
    Share,
    ToOne,
    UpToOne,
    Whole,
    Words,
    known,
    refuse,
    settings,
    wrong,
)
from riskalign.training.rules import LossType, Risk, Target, Tokens, UpToHalf, loss_problems

StepKind = Annotated[Words, known(check_kind)]
Problem = tuple[str, str]

# So far from both models float32 still keeps five of its seven digits.
#: Between two models (0 the first, 1 the second), or beyond them.
Weight = Annotated[Number, Field(ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)]
_SCHEDULERS = tuple(scheduler.value for scheduler in SchedulerType)
Scheduler = Literal[_SCHEDULERS]  # type: ignore[valid-type]
AnswerRisk = Annotated[Words, known(answer_risk)]
Steps = Annotated[Whole, Field(ge=-1)]


@settings
class SamplingConfig:
    """How answers are sampled to make pairs of them in a world."""

    prompts: Count = 256
    """Prompts that are answered."""
    answers_per_prompt: Tokens = 8
    """Answers to each, split evenly over the temperatures."""
    pairs_per_prompt: Count = 1
    """Pairs made of the answers to a prompt, the best and the worst first."""
    temperatures: Annotated[tuple[Positive, ...], LISTED, Field(min_length=1)] = (1.0,)
    """Of sampling. A low one beside 1 pairs sober answers with wild ones, which teaches a model
    whose own distribution is too wide to narrow it."""
    top_p: UpToOne = 1.0
    """Share of the likeliest tokens that are drawn from."""
    max_new_tokens: Count = 48
    """Tokens of an answer."""
    batch_size: Count = 64
    """Answers sampled at once."""
    backend: Backend = "transformers"
    """transformers, or vllm where it is installed."""

    def __post_init__(self) -> None:
        """Refuse answers that cannot be split evenly over the temperatures."""
        n = len(self.temperatures)
        refuse(
            wrong(
                "answers_per_prompt",
                self.answers_per_prompt % n != 0,
                f"{self.answers_per_prompt} cannot be split evenly over {n} temperatures",
            )
        )


@settings
class StepConfig:
    """One step: its data, its loss (names as in `RSAConfig`), its optimisation."""

    skip: Flag = False
    """Leave the step out."""
    data: Words | None = None
    """Rows to train on, a path or hub id, in place of pairs made in the world."""
    own_answers: Flag = False
    """In a job on judged answers: train on pairs of the start model's own answers to the file's
    training prompts, labelled by scorers that learnt from its records."""
    rows: Literal["pairs", "groups"] = "pairs"
    """Of sampled answers: pairs of the best and the worst, or groups of all, for a loss over all
    their pairs."""
    anchors: ToOne = 0.0
    """Share of rows at most that are prompts whose answers all score alike: a gap of 0 holds the
    policy where it is."""
    eval_data: Words | None = None
    """Pairs on which the trained step is judged: how often its implicit reward is in the right
    order."""
    max_eval_samples: Count = 200
    """Of these at most so many."""
    risk: Risk = "cvar:0.95"
    """Token-level risk measure, such as mean, cvar:0.95 or erm:0.5."""
    loss_type: LossType = "rsa1"
    """The loss: rsa1, rsa2, tdpo1, tdpo2, dpo, kto, or package.module:function."""
    loss_options: dict[str, Number] | None = None
    """A loss's own parameters, by name."""
    target: Target = "gap"
    """What the margin is pulled towards: hard (order only), soft, gap or offset."""
    alpha: NotNegative = 0.5
    """Weight of the risk term of rsa2 and tdpo2."""
    gap_scale: Positive = 1.0
    """Factor on score gaps; with it they are the margin's targets."""
    max_gap: Positive | None = None
    """Gaps are cut off at so many nats."""
    answer_risk: AnswerRisk | None = None
    """Of the safe step: the risk of whole answers (docs/method.md, section 8). Each cost is
    replaced by what the measure charges it, solved before training for the policy that the step
    arrives at; null takes the cost as it is."""
    limit: Number | None = None
    """Solve the temperature as well, so that this risk comes down to the limit."""
    safe_cost: Number | None = None
    """Of the helpful step under target offset: SafeDPO's pairs. An answer that costs at most so
    much is safe; unsafe winners over safe losers are swapped, pairs of two unsafe answers left
    out."""
    safety_margin: NotNegative = 1.0
    """How much further unsafe losers are pushed."""
    label_smoothing: UpToHalf = 0.0
    """Assumed share of swapped labels."""
    desirable_weight: Positive = 1.0
    """KTO's weight of desirable responses."""
    undesirable_weight: Positive = 1.0
    """The same of the others."""
    beta: Positive | None = None
    """Temperature, in place of that of the schedule."""
    learning_rate: Positive = 2e-5
    """Of AdamW."""
    num_train_epochs: Positive = 2.0
    """Passes over the rows."""
    max_steps: Steps = -1
    """Optimizer steps; -1 for as many as the epochs have."""
    per_device_train_batch_size: Count = 4
    """Pairs (groups, under KTO responses) at once on a device."""
    per_device_eval_batch_size: Count = 8
    """Pairs judged at once."""
    gradient_accumulation_steps: Count = 1
    """Batches in one optimizer step."""
    gradient_checkpointing: Flag = False
    """Compute activations again in the backward pass, for memory."""
    max_length: Tokens = 512
    """Tokens of a prompt and one response together."""
    max_prompt_length: Count | None = None
    """Tokens of the prompt; null for no limit of its own."""
    truncation_mode: TruncationMode = "keep_end"
    """Which part of a long prompt stays."""
    cache_reference: Literal["memory", "disk"] | None = None
    """Keep the reference's hidden states, so that later epochs need no forward pass of it."""
    compile_layers: Flag = False
    """Compile the decoder layers: half a minute once, then faster steps."""
    warmup_ratio: Share = 0.0
    """Share of the steps in which the learning rate rises."""
    weight_decay: NotNegative = 0.0
    """Of AdamW."""
    max_grad_norm: Positive = 1.0
    """Longer gradients are shortened to this."""
    lr_scheduler_type: Scheduler = "linear"
    """How the learning rate falls, by its name in transformers."""
    logging_steps: Count = 1
    """Steps between logs."""
    save_strategy: Literal["epoch", "steps", "no"] = "epoch"
    """When a checkpoint to resume from is kept, and the log has an entry."""
    save_steps: Count = 500
    """Steps between two, where that is by steps."""
    bf16: Flag | None = None
    """As the job's unless given."""
    sampling: SamplingConfig | None = None
    """In place of the job's, for this step's rows."""

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        refuse(_step_problems(self))


@settings
class SFTConfig:
    """The start step: supervised tuning on a world's demonstrations, the loss on answers alone."""

    demonstrations: Count = 160
    """Prompts, each with as many answers as the world shows."""
    learning_rate: Positive = 2e-3
    """Of AdamW."""
    num_train_epochs: Positive = 1.0
    """Passes over the demonstrations."""
    max_steps: Steps = -1
    """Optimizer steps; -1 for as many as the epochs have."""
    per_device_train_batch_size: Count = 2
    """Prompts at once on a device."""
    gradient_accumulation_steps: Count = 1
    """Batches in one optimizer step."""
    max_length: Tokens = 512
    """Tokens of a prompt and one response together."""
    warmup_ratio: Share = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: NotNegative = 0.0
    """Of AdamW."""
    max_grad_norm: Positive = 1.0
    """Longer gradients are shortened to this."""
    lr_scheduler_type: Scheduler = "linear"
    """How the learning rate falls, by its name in transformers."""
    logging_steps: Count = 1
    """Steps between logs."""
    seed: Whole | None = None
    """Of the demonstrations and their order, the job's own by default; with one given, jobs of
    several seeds start from one model."""

    def __post_init__(self) -> None:
        """Refuse a `max_steps` of 0."""
        refuse(no_steps(self.max_steps))


@settings
class LoraSettings:
    """A LoRA adapter; trained in each step and merged into the weights at its end."""

    r: Count = 16
    """Its rank."""
    lora_alpha: Count = 32
    """Its scale is this over the rank."""
    target_modules: Words | Annotated[tuple[Words, ...], LISTED] = "all-linear"
    """Names of the layers that get one, or all-linear."""
    lora_dropout: Share = 0.0
    """Of its input."""


@settings
class ScoringConfig:
    """What judges the answers of a job on a data set: a reward and a cost scorer."""

    reward: Words | None = None
    """Folder that `riskalign score train` wrote; null trains one from the prompts that
    data.scorer_fraction sets aside."""
    cost: Words | None = None
    """The same."""
    encoder: Words = "minilm"
    """What scorers of the job are trained on."""
    prompts: Words | None = None
    """A file of prompts to ask in place of the held-out ones."""


@settings
class EvaluationConfig:
    """How the models are compared: world prompts never trained on, and points of the dial."""

    split: Literal["eval", "dev"] = "eval"
    """eval; or dev, for choosing settings without a look at it: the world's own prompts for that,
    else others of its training half."""
    prompts: Tokens = 64
    """Prompts that are asked."""
    answers_per_prompt: Count = 4
    """Answers to each."""
    temperature: NotNegative = 1.0
    """Of sampling; 0 takes the likeliest token."""
    top_p: UpToOne = 1.0
    """Share of the likeliest tokens that are drawn from."""
    max_new_tokens: Count = 48
    """Tokens of an answer."""
    batch_size: Count = 64
    """Answers sampled at once."""
    backend: Backend = "transformers"
    """transformers, or vllm where it is installed (never for the dial, which needs two models)."""
    dial: Annotated[tuple[Weight, ...], LISTED] = (0.0, 0.5, 1.0, 1.5)
    """Points between the two steps' models: 0 the first, 1 the last, 2 twice as far."""
    dial_prompts: NotLess = 32
    """Prompts asked at each point; 0 for no dial."""
    distance_prompts: NotLess | None = None
    """Prompts on which KL and risk ratio are measured; null for all."""
    risk: Risk = "cvar:0.95"
    """Measure of the reported risk ratio."""
    n_boot: Count = 2000
    """Replicates of the bootstrap."""
    confidence: Between = 0.95
    """Of the intervals."""
    examples: NotLess = 8
    """Answers shown in the report."""
    metrics: Annotated[tuple[Words, ...], LISTED, known(get_metrics)] = ()
    """Metrics of your own beside those that are always measured, as package.module:name."""

    def __post_init__(self) -> None:
        """Refuse a dial of one prompt."""
        refuse(
            wrong("dial_prompts", self.dial_prompts == 1, "1 is neither 0 (no dial) nor at least 2")
        )


def for_order(step: StepConfig) -> StepConfig:
    """The step's settings as far as they act on which of two answers it prefers."""
    unpaired = step.loss_type in UNPAIRED
    return dataclasses.replace(
        step,
        loss_type="dpo" if unpaired else step.loss_type,
        target="hard",
        cache_reference=None,
        anchors=0.0,
        limit=None,
        max_gap=None,
        safe_cost=None,
        safety_margin=StepConfig().safety_margin,
        label_smoothing=0.0,
    )


def no_steps(max_steps: int) -> Iterator[Problem]:
    """Refuse 0, which is neither a number of steps nor -1, as many as the epochs have."""
    yield from wrong("max_steps", max_steps == 0, "0 is neither at least 1 nor -1 (all epochs)")


def _step_problems(step: StepConfig) -> Iterator[Problem]:
    yield from no_steps(step.max_steps)
    yield from loss_problems(step)
    yield from wrong(
        "anchors",
        step.anchors > 0 and step.target in ORDERED,
        "is above 0, which needs target gap or soft: others learn an order, and anchors have none",
    )
    unpaired = step.loss_type in UNPAIRED
    yield from wrong(
        "rows",
        step.rows == "groups" and unpaired,
        f"is groups, and loss_type {step.loss_type!r} takes single responses; choose pairs",
    )
    for name in ("answer_risk", "limit"):
        yield from wrong(
            name,
            getattr(step, name) is not None and unpaired,
            f"needs scores of pairs or groups, and loss_type {step.loss_type!r} has labels",
        )
    if step.limit is not None:
        yield from wrong(
            "limit",
            step.answer_risk is None,
            "needs answer_risk, the risk that it limits (mean for the mean cost)",
        )
        yield from wrong(
            "limit",
            step.target in ORDERED,
            "needs target gap or soft; others learn no sizes",
        )
        yield from wrong(
            "limit", step.beta is not None, "is given and beta is as well; the limit decides it"
        )
    default = next(f.default for f in dataclasses.fields(StepConfig) if f.name == "safety_margin")
    if step.safe_cost is None:
        yield from wrong(
            "safety_margin", step.safety_margin != default, "is given, which needs safe_cost"
        )
        return
    yield from wrong("safe_cost", step.target != "offset", "is given, which needs target: offset")
    yield from wrong("safe_cost", step.rows != "pairs", "is given, which needs rows: pairs")
    yield from wrong(
        "safe_cost",
        step.gap_scale != 1.0,
        "is given, which needs gap_scale: 1.0, in whose units its margin is",
    )
