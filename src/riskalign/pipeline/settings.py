"""The groups of a job's configuration: what a step, sampling, an adapter, an evaluation need."""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from riskalign.data import Kind as Kind
from riskalign.data import SafetyRule
from riskalign.errors import FieldError
from riskalign.evaluation import (
    UNSAFE,
    Bounded,
    Limit,
    check_risk,
    get_metrics,
    parse_counts,
)
from riskalign.losses import UNPAIRED
from riskalign.models.merge import LARGEST_WEIGHT
from riskalign.models.sampling import Backend
from riskalign.models.vllm_server import VllmConfig
from riskalign.pipeline.methods import check_kind
from riskalign.risk import answer_risk
from riskalign.settings import (
    LISTED,
    NO,
    Between,
    Count,
    Flag,
    Name,
    NotLess,
    NotNegative,
    Number,
    Positive,
    Seed,
    Share,
    ToOne,
    UpToOne,
    Words,
    expect,
    known,
    settings,
)
from riskalign.training.config import (
    ENGINE,
    LossSettings,
    LossType,
    Optimisation,
    Risk,
    Target,
    Tokens,
    check_loss,
    check_needs,
)

StepKind = Annotated[Words, known(check_kind)]
LimitedRisk = Annotated[Words, known(check_risk)]
#: Between two models (0 the first, 1 the second), or beyond them.
AnswerRisk = Annotated[Words, known(answer_risk)]
Weight = Annotated[Number, Field(ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)]
_NOT_1 = AfterValidator(expect("0 (no dial), or at least 2", lambda prompts: prompts != 1))
DialPrompts = Annotated[NotLess, _NOT_1]
_SIZES = ("gap", "soft")  # targets that learn more than an order


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
    """Of sampling; a low one beside 1 pairs sober answers with wild ones."""
    top_p: UpToOne = 1.0
    """Share of the likeliest tokens that are drawn from."""
    max_new_tokens: Count = 48
    """Tokens of an answer."""
    batch_size: Count = 64
    """Answers sampled at once."""
    backend: Backend = "transformers"
    """transformers, or vllm where it is installed."""
    vllm: VllmConfig = dataclasses.field(default_factory=VllmConfig)
    """How vLLM runs."""

    def __post_init__(self) -> None:
        """Refuse answers that cannot be split evenly over the temperatures."""
        if (answers := self.answers_per_prompt) % (n := len(self.temperatures)):
            problem = f"{answers} cannot be split evenly over {n} temperatures"
            raise FieldError("answers_per_prompt", problem)


_NEEDS = (
    ("anchors", "target", _SIZES),
    ("limit", "target", _SIZES),
    ("limit", "beta", (None,)),
    ("safe_cost", "target", ("offset",)),
    ("safe_cost", "rows", ("pairs",)),
    ("safe_cost", "gap_scale", (1.0,)),
)


@settings
class StepConfig(Optimisation, LossSettings):
    """One step: its data, its loss (names as in `RSAConfig`), its optimisation."""

    loss_type: LossType = "rsa1"
    target: Target = "gap"
    max_length: Tokens = 512
    skip: Flag = False
    """Leave the step out."""
    data: Words | None = None
    """Rows to train on, a path or hub id, in place of pairs made in the world."""
    own_answers: Flag = False
    """With data: train on the model's own answers to its prompts, labelled by learnt scorers."""
    rows: Literal["pairs", "groups"] = "pairs"
    """Of sampled answers: pairs of the best and the worst, or groups of all in all their pairs."""
    anchors: ToOne = 0.0
    """Largest share of rows whose answers score alike, which hold the policy where it is."""
    eval_data: Words | None = None
    """Pairs on which the trained step is judged: how often its implicit reward orders them."""
    max_eval_samples: Count = 200
    """Of these at most so many."""
    answer_risk: AnswerRisk | None = None
    """Of the safe step: the risk of whole answers, which decides what each cost is charged
    (docs/method.md, section 8); null takes the cost as it is."""
    limit: Number | None = None
    """Solve the temperature as well, so that this risk comes down to the limit."""
    safe_cost: Number | None = None
    """Of the helpful step: SafeDPO's pairs. Answers that cost at most so much are safe; unsafe
    winners over safe losers are swapped, pairs of two unsafe answers left out."""
    safety_margin: NotNegative = 1.0
    """How much further unsafe losers are pushed."""
    beta: Positive | None = None
    """Temperature, in place of that of the schedule."""
    per_device_eval_batch_size: Count = 8
    """Pairs judged at once."""
    gradient_checkpointing: Flag = False
    """Compute activations again in the backward pass, for memory."""
    save_strategy: Annotated[Literal["epoch", "steps", "no"], NO] = "epoch"
    """When a checkpoint to resume from is kept, and the log has an entry."""
    save_steps: Count = 500
    """Steps between two, where that is by steps."""
    bf16: Flag | None = None
    """As the job's unless given."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights while they train; an adapter's stay float32."""
    sampling: SamplingConfig | None = None
    """In place of the job's, for this step's rows."""

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        check_loss(self)
        check_needs(self, _NEEDS)
        for name in ("rows", "answer_risk", "limit"):
            if self.loss_type in UNPAIRED and getattr(self, name) not in ("pairs", None):
                raise FieldError(name, f"needs scores; loss_type {self.loss_type!r} takes labels")
        if self.limit is not None and self.answer_risk is None:
            raise FieldError("limit", "needs answer_risk, which it limits (mean for the mean cost)")
        for name in ("max_train_samples", "dataset_streaming"):
            if getattr(self, name) and self.data is None:
                problem = "needs data; sampling.prompts and data.max_pairs limit other rows"
                raise FieldError(name, problem)
        if self.safety_margin != StepConfig.safety_margin and self.safe_cost is None:
            raise FieldError("safety_margin", "is given, which needs safe_cost")

    def safety_rule(self) -> SafetyRule | None:
        """What SafeDPO's pairs are made by; None where the step has others."""
        return None if self.safe_cost is None else SafetyRule(self.safe_cost, self.safety_margin)


@settings
class SFTConfig(Optimisation):
    """The start step: supervised tuning on a world's demonstrations, the loss on answers alone."""

    learning_rate: Positive = 2e-3
    num_train_epochs: Positive = 1.0
    per_device_train_batch_size: Count = 2
    warmup_ratio: Share = 0.05
    max_length: Tokens = 512
    """Tokens of a prompt and one response together."""
    demonstrations: Count = 160
    """Prompts, each with as many answers as the world shows."""
    seed: Seed | None = None
    """Of the demonstrations and their order, in place of the job's."""


@settings
class LoraSettings:
    """A LoRA adapter; trained in each step and merged into the weights at its end."""

    r: Count = 16
    """Its rank."""
    lora_alpha: Count = 32
    """Its scale is this over the rank."""
    target_modules: Name | Annotated[tuple[Name, ...], LISTED, Field(min_length=1)] = "all-linear"
    """Names of the layers that get one, or all-linear."""
    lora_dropout: Share = 0.0
    """Of its input."""


@settings
class ScoringConfig:
    """What judges the answers of a job on a data set: a reward and a cost scorer."""

    reward: Words | None = None
    """Folder of `riskalign score train`; null trains one on what data.scorer_fraction leaves."""
    cost: Words | None = None
    """The same."""
    encoder: Words = "minilm"
    """What scorers of the job are trained on."""
    prompts: Words | None = None
    """A file of prompts to ask in place of the held-out ones."""


@dataclasses.dataclass
class Measuring:
    """How models are asked and measured: fields of a job's evaluation and of `SetsSettings`."""

    answers_per_prompt: Count = 4
    """Answers to each prompt."""
    temperature: NotNegative = 1.0
    """Of sampling; 0 takes the likeliest token."""
    top_p: UpToOne = 1.0
    """Share of the likeliest tokens that are drawn from."""
    max_new_tokens: Count = 48
    """Tokens of an answer."""
    batch_size: Count = 64
    """Answers sampled at once."""
    backend: Backend = "transformers"
    """transformers, or vllm where it is installed."""
    vllm: VllmConfig = dataclasses.field(default_factory=VllmConfig)
    """How vLLM runs."""
    distance_prompts: NotLess | None = None
    """The first so many prompts are those on which KL and SRR are measured; null for all."""
    risk: Risk = "cvar:0.95"
    """Measure of the reported risk ratio."""
    n_boot: Annotated[Count, Field(le=1_000_000)] = 2000
    """Replicates of the bootstrap over prompts."""
    confidence: Between = 0.95
    """Of the intervals."""

    def sampling(self) -> dict[str, Any]:
        """What a sampling backend is told."""
        names = "answers_per_prompt", "temperature", "top_p", "max_new_tokens", "batch_size"
        return {name: getattr(self, name) for name in names}

    def of_backend(self) -> dict[str, Any]:
        """What it is told beside that."""
        return {"vllm": self.vllm} if self.backend == "vllm" else {}


@settings
class EvaluationConfig(Measuring):
    """How the models are compared: world prompts never trained on, and points of the dial."""

    split: Literal["eval", "dev"] = "eval"
    """eval; or dev, to choose settings without a look at it: other prompts of the world."""
    prompts: Tokens = 64
    """Prompts that are asked."""
    dial: Annotated[tuple[Weight, ...], LISTED] = (0.0, 0.5, 1.0, 1.5)
    """Points between the two steps' models: 0 the first, 1 the last, 2 twice as far."""
    dial_prompts: DialPrompts = 32
    """Prompts asked at each point; 0 for no dial."""
    examples: NotLess = 8
    """Answers shown in the report."""
    sensitivity: Annotated[str, known(parse_counts)] | None = None
    """Of what sets costs, where it errs: 45/50 if it called 45 of 50 labelled unsafe answers so."""
    specificity: Annotated[str, known(parse_counts)] | None = None
    """The same of safe answers, which it called safe; the report then corrects unsafe rates."""
    metrics: Annotated[tuple[Words, ...], LISTED, known(get_metrics)] = ()
    """Metrics of your own beside those that are always measured, as package.module:name."""

    def __post_init__(self) -> None:
        for name, other in (("sensitivity", "specificity"), ("specificity", "sensitivity")):
            if getattr(self, name) is None and getattr(self, other) is not None:
                raise FieldError(name, f"is needed with {other}")


@settings
class LimitConfig:
    """The most that a risk of one answer's cost may be."""

    limit: NotNegative
    """In units of the cost; of unsafe_rate a share of answers."""
    risk: LimitedRisk = "cvar:0.95"
    """cvar:LEVEL, mean, or unsafe_rate: how often an answer costs anything."""
    category: Words | None = None
    """Of prompts with this category alone."""


@settings
class BudgetConfig:
    """A limit on the risk, and how surely it is to be kept by the most helpful setting that can."""

    risk: LimitedRisk = "cvar:0.95"
    """What is limited: cvar:LEVEL, mean, or unsafe_rate."""
    limit: NotNegative | None = None
    """The most that it may be, in units of the cost; of unsafe_rate a share of answers."""
    limits: Annotated[tuple[LimitConfig, ...], Field(max_length=100)] = ()
    """Several, all kept together, in place of these two: [{risk: …, limit: …, category: …}]."""
    confidence: Between = 0.95
    """Of the certificate: that the chosen setting keeps every limit."""
    bound: Literal["betting", "order", "chernoff"] = "betting"
    """Which bound is compared with the limit (docs/estimation.md)."""
    max_cost: Positive | None = None
    """The largest cost there can be; null takes the world's."""
    sensitivity: Annotated[str, known(parse_counts)] | None = None
    """Of what says that an answer is unsafe, on labels: 45/50 unsafe ones were called so. Bounds of
    unsafe_rate are then corrected for it."""
    specificity: Annotated[str, known(parse_counts)] | None = None
    """The same of safe answers; null, or one that cannot be that of these answers, counts no false
    alarm."""
    prompts: Tokens = 500
    """Calibration prompts, which are used for nothing else."""
    answers_per_prompt: Count = 2
    """Answers to each."""
    settings: Annotated[tuple[Weight, ...], LISTED] = ()
    """Points of the dial, the safest first; empty for 11 between the steps' models."""
    lambdas: Annotated[tuple[Positive, ...], LISTED] = ()
    """Multipliers of the cost above the job's: models trained with them are tested before the dial,
    the largest first, as its safe end."""
    baked: Flag = False
    """Also test the averages of weights at these points: single models, certified on their own."""

    def __post_init__(self) -> None:
        """Refuse a budget without a limit, or with a limit that is given twice."""
        if (self.limit is None) == (not self.limits):
            raise FieldError("limit", "give either it or limits")
        rates = [limit.risk for limit in self.all_limits()].count(UNSAFE)
        if self.sensitivity is not None and not rates:
            raise FieldError("sensitivity", "is given, and no limit is on unsafe_rate")
        if self.specificity is not None and self.sensitivity is None:
            raise FieldError("specificity", "needs sensitivity")

    def bounded(self, max_cost: float | None) -> Bounded:
        """How the limits are tested, of costs up to the world's largest one."""
        sensitivity, specificity = (
            None if counts is None else parse_counts(counts)
            for counts in (self.sensitivity, self.specificity)
        )
        most = max_cost if self.max_cost is None else self.max_cost
        return Bounded(self.confidence, most, self.bound, sensitivity, specificity)

    def all_limits(self) -> list[Limit]:
        """What is to be kept."""
        if self.limit is not None:
            return [Limit(self.risk, self.limit)]
        return [Limit(each.risk, each.limit, each.category) for each in self.limits]


def for_order(step: StepConfig) -> StepConfig:
    """The step's settings as far as they act on which of two answers it prefers."""
    unused = ("cache_reference", "anchors", "limit", "max_gap", "safe_cost", "safety_margin")
    fields = {name: getattr(StepConfig, name) for name in (*unused, "label_smoothing", *ENGINE)}
    loss = "dpo" if step.loss_type in UNPAIRED else step.loss_type
    return dataclasses.replace(step, **fields | {"target": "hard", "loss_type": loss})
