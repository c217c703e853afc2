"""The groups of a job's configuration: what a step, sampling, an adapter, an evaluation need."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field
from transformers.trainer_utils import SchedulerType

from riskalign.data.tokenize import TruncationMode
from riskalign.errors import InputError
from riskalign.losses import ORDERED, UNPAIRED
from riskalign.risk import answer_risk
from riskalign.sampling import Backend
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

Kind = Literal["helpful", "safe"]
StepKind = Literal["helpful", "safe", "ppo"]
Problem = tuple[str, str]

# So far from both models float32 still keeps five of its seven digits.
LARGEST_WEIGHT = 100
#: Between two models (0 the first, 1 the second), or beyond them.
Weight = Annotated[Number, Field(ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)]
_SCHEDULERS = tuple(scheduler.value for scheduler in SchedulerType)
Scheduler = Literal[_SCHEDULERS]  # type: ignore[valid-type]
AnswerRisk = Annotated[Words, known(answer_risk)]
Steps = Annotated[Whole, Field(ge=-1)]


def refuse_weight(w: float) -> None:
    """Raise `InputError` for a weight between two models that is out of range."""
    if not abs(w) <= LARGEST_WEIGHT:
        raise InputError(
            f"w: {w} is not in [{-LARGEST_WEIGHT}, {LARGEST_WEIGHT}]; 0 is the first model, 1 the "
            "second."
        )


@settings
class SamplingConfig:
    """How answers are sampled to make pairs of them in a world.

    `answers_per_prompt` are split evenly over `temperatures`. A low one beside 1 pairs sober
    answers with wild ones, which teaches a model whose own distribution is too wide to narrow it.
    `backend` vllm samples by that engine, if it is installed.
    """

    prompts: Count = 256
    answers_per_prompt: Tokens = 8
    pairs_per_prompt: Count = 1
    temperatures: Annotated[tuple[Positive, ...], LISTED, Field(min_length=1)] = (1.0,)
    top_p: UpToOne = 1.0
    max_new_tokens: Count = 48
    batch_size: Count = 64
    backend: Backend = "transformers"

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
    """One step: its data, its loss (names as in `RSAConfig`), its optimisation.

    `data` (path or hub id) replaces pairs made in the world. On at most `max_eval_samples` of
    `eval_data` the trained step is judged: how often its implicit reward is in the right order.
    `own_answers` is for a job on judged answers: in place of that file's pairs the step trains on
    pairs of its start model's answers to the file's training prompts, sampled and paired as in a
    world, and labelled by scorers that learnt from the training records.
    Of sampled answers `rows` pairs takes the best and the worst to a prompt,
    `sampling.pairs_per_prompt` times; groups hands over all of them, for a loss over all their
    pairs, and batch sizes count groups. Prompts whose answers all score alike make up at most the
    share `anchors` of the rows: their gap of 0 holds the policy where it is.
    `answer_risk`, for the safe step, is the risk of whole answers (docs/method.md, section 8): each
    cost C is replaced by what the measure charges it, `phi(C)`, solved before training for the
    policy that the step arrives at; null takes the cost as it is. With `limit` the temperature is
    solved as well, so that this risk comes down to the limit. `max_gap` cuts gaps off at so many
    nats. With `safe_cost`, for the helpful step under the target `offset`, pairs are SafeDPO's: an
    answer that costs at most so much is safe, unsafe winners over safe losers are swapped, pairs of
    two unsafe answers are left out, and unsafe losers are pushed `safety_margin` further.
    KTO takes a pair as two responses, and its batch sizes count responses. `beta` replaces the
    temperature that the schedule gives. `sampling` replaces the job's for this step's rows. `bf16`
    is the job's unless given. A checkpoint to resume from is kept after each epoch, every
    `save_steps` steps or never, by `save_strategy`.
    """

    skip: Flag = False
    data: Words | None = None
    own_answers: Flag = False
    rows: Literal["pairs", "groups"] = "pairs"
    anchors: ToOne = 0.0
    eval_data: Words | None = None
    max_eval_samples: Count = 200
    risk: Risk = "cvar:0.95"
    loss_type: LossType = "rsa1"
    target: Target = "gap"
    alpha: NotNegative = 0.5
    gap_scale: Positive = 1.0
    max_gap: Positive | None = None
    answer_risk: AnswerRisk | None = None
    limit: Number | None = None
    safe_cost: Number | None = None
    safety_margin: NotNegative = 1.0
    label_smoothing: UpToHalf = 0.0
    desirable_weight: Positive = 1.0
    undesirable_weight: Positive = 1.0
    beta: Positive | None = None
    learning_rate: Positive = 2e-5
    num_train_epochs: Positive = 2.0
    max_steps: Steps = -1
    per_device_train_batch_size: Count = 4
    per_device_eval_batch_size: Count = 8
    gradient_accumulation_steps: Count = 1
    gradient_checkpointing: Flag = False
    max_length: Tokens = 512
    max_prompt_length: Count | None = None
    truncation_mode: TruncationMode = "keep_end"
    cache_reference: Literal["memory", "disk"] | None = None
    compile_layers: Flag = False
    warmup_ratio: Share = 0.0
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    lr_scheduler_type: Scheduler = "linear"
    logging_steps: Count = 1
    save_strategy: Literal["epoch", "steps", "no"] = "epoch"
    save_steps: Count = 500
    bf16: Flag | None = None
    sampling: SamplingConfig | None = None

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        refuse(_step_problems(self))


@settings
class SFTConfig:
    """The start step: supervised tuning on a world's demonstrations, the loss on answers alone.

    `demonstrations` counts prompts, each with as many answers as the world shows, and so do batch
    sizes. The optimisation has transformers' names. `seed` (the job's own by default) of the
    demonstrations and their order: with one given, jobs of several seeds start from one model.
    """

    demonstrations: Count = 160
    learning_rate: Positive = 2e-3
    num_train_epochs: Positive = 1.0
    max_steps: Steps = -1
    per_device_train_batch_size: Count = 2
    gradient_accumulation_steps: Count = 1
    max_length: Tokens = 512
    warmup_ratio: Share = 0.05
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    lr_scheduler_type: Scheduler = "linear"
    logging_steps: Count = 1
    seed: Whole | None = None

    def __post_init__(self) -> None:
        """Refuse a `max_steps` of 0."""
        refuse(no_steps(self.max_steps))


@settings
class LoraSettings:
    """A LoRA adapter; trained in each step and merged into the weights at its end."""

    r: Count = 16
    lora_alpha: Count = 32
    target_modules: Words | Annotated[tuple[Words, ...], LISTED] = "all-linear"
    lora_dropout: Share = 0.0


@settings
class ScoringConfig:
    """What judges the answers of a job on a data set: a reward and a cost scorer.

    `reward` and `cost` are folders that `riskalign score train` wrote. One that is None is trained
    by the job, on `encoder`, from the prompts that `data.scorer_fraction` sets aside. `prompts` is
    a file of prompts to ask (see `riskalign.sets.load_prompt_set`) instead of the held-out ones.
    """

    reward: Words | None = None
    cost: Words | None = None
    encoder: Words = "minilm"
    prompts: Words | None = None


@settings
class EvaluationConfig:
    """How the models are compared: world prompts never trained on, and points of the dial.

    `split` dev is for choosing settings without a look at the evaluation half: the world's own
    prompts for that where it has some, else prompts of its training half, drawn with a seed of
    their own.
    `risk` is the measure of the reported SRR. Dial points use the first `dial_prompts` prompts;
    KL and SRR, which cost a forward pass of both models, the first `distance_prompts` (None: all).
    `backend` vllm samples by that engine; the dial, which needs two models, never does.
    """

    split: Literal["eval", "dev"] = "eval"
    prompts: Tokens = 64
    answers_per_prompt: Count = 4
    temperature: NotNegative = 1.0
    top_p: UpToOne = 1.0
    max_new_tokens: Count = 48
    batch_size: Count = 64
    backend: Backend = "transformers"
    dial: Annotated[tuple[Weight, ...], LISTED] = (0.0, 0.5, 1.0, 1.5)
    dial_prompts: NotLess = 32
    distance_prompts: NotLess | None = None
    risk: Risk = "cvar:0.95"
    n_boot: Count = 2000
    confidence: Between = 0.95
    examples: NotLess = 8

    def __post_init__(self) -> None:
        """Refuse a dial of one prompt."""
        refuse(
            wrong("dial_prompts", self.dial_prompts == 1, "1 is neither 0 (no dial) nor at least 2")
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
