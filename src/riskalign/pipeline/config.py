"""`AlignConfig`: everything that decides what the two steps do; checked before work starts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from transformers.trainer_utils import SchedulerType

from riskalign.baselines import PPOSettings, ScorerSettings
from riskalign.errors import InputError
from riskalign.losses import LOSSES, UNPAIRED
from riskalign.pipeline.schedule import Schedule, temperatures
from riskalign.risk import get_risk
from riskalign.sampling import Backend

Kind = Literal["helpful", "safe"]
StepKind = Literal["helpful", "safe", "ppo"]
Problem = tuple[str, str]


class FieldError(InputError):
    """A field's value is wrong; `field` is its dotted name, `problem` the reason and remedy."""

    def __init__(self, field: str, problem: str, where: str = "") -> None:
        super().__init__(f"{where}{field}: {problem}")
        self.field = field
        self.problem = problem


@dataclass(frozen=True)
class SamplingConfig:
    """How answers are sampled to make pairs of them in a world.

    `answers_per_prompt` are split evenly over `temperatures`. A low one beside 1 pairs sober
    answers with wild ones, which teaches a model whose own distribution is too wide to narrow it.
    `backend` vllm samples by that engine, if it is installed.
    """

    prompts: int = 256
    answers_per_prompt: int = 8
    pairs_per_prompt: int = 1
    temperatures: tuple[float, ...] = (1.0,)
    top_p: float = 1.0
    max_new_tokens: int = 48
    batch_size: int = 64
    backend: Backend = "transformers"


@dataclass(frozen=True)
class StepConfig:
    """One step: its data, its loss (names as in `RSAConfig`), its optimisation.

    `data` (path or hub id) replaces pairs made in the world. KTO takes a pair as two responses, and
    its batch sizes count responses. `beta` replaces the temperature that
    the schedule gives. `sampling` replaces the job's `sampling` for this step's pairs. `bf16` is
    the job's unless given. A checkpoint to resume from is kept after each epoch, every
    `save_steps` steps or never, by `save_strategy`.
    """

    skip: bool = False
    data: str | None = None
    risk: str = "cvar:0.95"
    loss_type: str = "rsa1"
    target: Literal["hard", "soft", "gap"] = "gap"
    alpha: float = 0.5
    gap_scale: float = 1.0
    label_smoothing: float = 0.0
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    beta: float | None = None
    learning_rate: float = 2e-5
    num_train_epochs: float = 2.0
    max_steps: int = -1
    per_device_train_batch_size: int = 4
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    max_length: int = 512
    max_prompt_length: int | None = None
    truncation_mode: Literal["keep_end", "keep_start"] = "keep_end"
    cache_reference: Literal["memory", "disk"] | None = None
    compile_layers: bool = False
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lr_scheduler_type: str = "linear"
    logging_steps: int = 1
    save_strategy: Literal["epoch", "steps", "no"] = "epoch"
    save_steps: int = 500
    bf16: bool | None = None
    sampling: SamplingConfig | None = None


@dataclass(frozen=True)
class LoraSettings:
    """A LoRA adapter; trained in each step and merged into the weights at its end."""

    r: int = 16
    lora_alpha: int = 32
    target_modules: str | tuple[str, ...] = "all-linear"
    lora_dropout: float = 0.0


@dataclass(frozen=True)
class EvaluationConfig:
    """How the models are compared: world prompts never trained on, and points of the dial.

    `split` dev takes prompts from the world's training half, drawn with a seed of their own: for
    choosing settings without a look at the evaluation half.
    `risk` is the measure of the reported SRR. Dial points use the first `dial_prompts` prompts;
    KL and SRR, which cost a forward pass of both models, the first `distance_prompts` (None: all).
    `backend` vllm samples by that engine; the dial, which needs two models, never does.
    """

    split: Literal["eval", "dev"] = "eval"
    prompts: int = 64
    answers_per_prompt: int = 4
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 48
    batch_size: int = 64
    backend: Backend = "transformers"
    dial: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5)
    dial_prompts: int = 32
    distance_prompts: int | None = None
    risk: str = "cvar:0.95"
    n_boot: int = 2000
    confidence: float = 0.95
    examples: int = 8


@dataclass(frozen=True)
class AlignConfig:
    """A whole job.

    `order` lists the steps. `ppo` is Safe RLHF's PPO-Lagrangian (`riskalign.baselines`) with the
    settings `ppo`, on `sampling.prompts` prompts and the world's own reward and cost, or with
    `scorers` on models of both, trained on helpful and safe pairs. A kind may come again
    (`[helpful, safe, safe]`): its later rounds use pairs sampled anew, and the temperatures of its
    `n` rounds are `n` times as high, so that together they tilt as far as one. For each `w` of
    `merges` the evaluation also measures the model of weights `(1 - w) * step 1 + w * last step`.
    `bf16` None takes bfloat16 where the device has it natively: for sampling and evaluation, and
    for training by autocast over float32 weights.

    Raises `InputError`, naming the field, for a value out of range.
    """

    model: str = "smollm2-135m"
    output_dir: str = "runs/align"
    seed: int = 0
    world: str | None = "vault"
    beta: float = 0.1
    lambda_: float = 1.0
    schedule: Schedule = "objective"
    order: tuple[StepKind, ...] = ("helpful", "safe")
    merges: tuple[float, ...] = ()
    helpful: StepConfig = field(default_factory=StepConfig)
    safe: StepConfig = field(default_factory=StepConfig)
    ppo: PPOSettings = field(default_factory=PPOSettings)
    scorers: ScorerSettings | None = None
    peft: LoraSettings | None = None
    bf16: bool | None = None
    trust_remote_code: bool = False
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig | None = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        """Refuse the first field that is out of range."""
        for name, problem in _problems(self):
            raise FieldError(name, problem)

    def step(self, kind: Kind) -> StepConfig:
        """The settings of the steps of this kind."""
        return self.helpful if kind == "helpful" else self.safe

    def steps(self) -> list[tuple[str, StepKind]]:
        """Name and kind of the steps to do, in order; a kind's later rounds are numbered."""
        done: list[tuple[str, StepKind]] = []
        for kind in self.order:
            if kind == "ppo" or not self.step(kind).skip:
                n = sum(other == kind for _, other in done) + 1
                done.append((kind if n == 1 else f"{kind}-{n}", kind))
        return done

    def pair_kinds(self, *, without_steps: bool = False) -> list[Kind]:
        """The kinds of pairs that the job needs; `without_steps` only those that `ppo` does."""
        steps = self.steps()
        ppo = any(kind == "ppo" for _, kind in steps)
        found: dict[Kind, None] = {}
        for _, kind in steps:
            if kind != "ppo" and not without_steps:
                found[kind] = None
        if ppo and (self.scorers is not None or self.ppo.ptx_coef > 0):
            found["helpful"] = None
        if ppo and self.scorers is not None:
            found["safe"] = None
        return list(found)

    def step_beta(self, kind: Kind) -> float:
        """The temperature of this kind's loss: as given, else from the schedule."""
        given = self.step(kind).beta
        if given is not None:
            return given
        derived = temperatures(self.beta, self.lambda_, self.schedule)
        rounds = max(1, sum(other == kind for other in self.order))
        return rounds * (derived.helpful if kind == "helpful" else derived.safe)

    def step_sampling(self, kind: Kind) -> SamplingConfig:
        """How answers are sampled for this kind's pairs."""
        return self.step(kind).sampling or self.sampling


def _problems(config: AlignConfig) -> Iterator[Problem]:
    yield from _wrong("model", not config.model, "is empty; give a hub id, folder or GGUF file")
    yield from _wrong("output_dir", not config.output_dir, "is empty; give a folder")
    yield from _positive("beta", config.beta)
    yield from _positive("lambda_", config.lambda_, " (to leave the cost out: safe.skip: true)")
    yield from _wrong("order", not config.order, "is empty; list helpful, safe or ppo")
    for kind in ("helpful", "safe"):
        step = config.step(kind)
        yield from _step_problems(kind, step)
        wanted = kind in config.pair_kinds()
        yield from _wrong(
            f"{kind}.data",
            wanted and step.data is None and config.world is None,
            "is null and there is no world to make pairs in; give data, or world, or skip: true",
        )
    yield from _wrong(
        "order", not config.steps(), "leaves no step to do; every step in it has skip: true"
    )
    yield from _wrong(
        "order",
        "ppo" in config.order and config.world is None,
        "has ppo, which answers a world's prompts, and there is no world",
    )
    bad = [w for w in config.merges if not math.isfinite(w)]
    yield from _wrong("merges", bool(bad), f"{bad} is not finite")
    one_kind = len({kind for _, kind in config.steps()}) < 2
    yield from _wrong(
        "merges", bool(config.merges) and one_kind, "needs steps of two kinds to lie between"
    )
    yield from _sampling_problems("sampling", config.sampling)
    if config.peft is not None:
        yield from _least("peft.r", config.peft.r, 1)
        yield from _positive("peft.lora_alpha", config.peft.lora_alpha)
        yield from _share("peft.lora_dropout", config.peft.lora_dropout)
    if config.evaluation is not None:
        yield from _evaluation_problems(config.evaluation)


def _step_problems(kind: str, step: StepConfig) -> Iterator[Problem]:
    yield from _risk(f"{kind}.risk", step.risk)
    yield from _wrong(
        f"{kind}.loss_type",
        step.loss_type not in {*LOSSES, *UNPAIRED},
        f"{step.loss_type!r} is not one of {', '.join([*LOSSES, *UNPAIRED])}",
    )
    if step.loss_type in UNPAIRED:
        yield from _unpaired_problems(kind, step)
    yield from _wrong(
        f"{kind}.risk",
        step.loss_type.startswith("tdpo") and step.risk != "mean",
        f"{step.risk!r} does not go with {kind}.loss_type {step.loss_type!r}, which is defined "
        "by 'mean'; the rsa losses take any measure",
    )
    schedulers = [scheduler.value for scheduler in SchedulerType]
    yield from _wrong(
        f"{kind}.lr_scheduler_type",
        step.lr_scheduler_type not in schedulers,
        f"{step.lr_scheduler_type!r} is not one of {', '.join(schedulers)}",
    )
    rates = ("gap_scale", "learning_rate", "num_train_epochs", "max_grad_norm")
    for name in (*rates, "desirable_weight", "undesirable_weight"):
        yield from _positive(f"{kind}.{name}", getattr(step, name))
    if step.beta is not None:
        yield from _positive(f"{kind}.beta", step.beta)
    for name in ("alpha", "weight_decay"):
        yield from _least(f"{kind}.{name}", getattr(step, name), 0)
    counts = ("per_device_train_batch_size", "gradient_accumulation_steps", "logging_steps")
    for name in (*counts, "max_prompt_length", "save_steps"):
        if getattr(step, name) is not None:
            yield from _least(f"{kind}.{name}", getattr(step, name), 1)
    yield from _least(f"{kind}.max_length", step.max_length, 2)
    yield from _wrong(
        f"{kind}.max_steps",
        step.max_steps != -1 and step.max_steps < 1,
        f"{step.max_steps} is neither at least 1 nor -1 (as many as the epochs have)",
    )
    yield from _share(f"{kind}.warmup_ratio", step.warmup_ratio)
    yield from _wrong(
        f"{kind}.label_smoothing",
        not 0 <= step.label_smoothing < 0.5,
        f"{step.label_smoothing} is not in [0, 0.5)",
    )
    yield from _wrong(
        f"{kind}.label_smoothing",
        step.label_smoothing > 0 and step.target != "hard",
        f"needs {kind}.target hard; the other targets have their probabilities from the scores",
    )
    if step.sampling is not None:
        yield from _sampling_problems(f"{kind}.sampling", step.sampling)


def _unpaired_problems(kind: str, step: StepConfig) -> Iterator[Problem]:
    why = f"which {kind}.loss_type {step.loss_type!r} needs"
    yield from _wrong(f"{kind}.target", step.target != "hard", f"is not hard, {why}")
    yield from _wrong(f"{kind}.label_smoothing", step.label_smoothing > 0, f"is not 0, {why}")
    yield from _wrong(
        f"{kind}.cache_reference", step.cache_reference is not None, f"is not null, {why}"
    )
    yield from _wrong(
        f"{kind}.per_device_train_batch_size",
        step.per_device_train_batch_size < 2,
        f"is not at least 2, {why}: its KL is taken from other responses of the batch",
    )


def _sampling_problems(name: str, sampling: SamplingConfig) -> Iterator[Problem]:
    yield from _least(f"{name}.answers_per_prompt", sampling.answers_per_prompt, 2)
    n = len(sampling.temperatures)
    yield from _wrong(f"{name}.temperatures", n == 0, "is empty; list one or more, such as [1.0]")
    for temperature in sampling.temperatures:
        yield from _positive(
            f"{name}.temperatures", temperature, " (answers must differ to make pairs)"
        )
    yield from _wrong(
        f"{name}.answers_per_prompt",
        n > 0 and sampling.answers_per_prompt % n != 0,
        f"{sampling.answers_per_prompt} cannot be split evenly over {n} temperatures",
    )
    for field_name in ("prompts", "pairs_per_prompt"):
        yield from _least(f"{name}.{field_name}", getattr(sampling, field_name), 1)
    yield from _generation_problems(name, sampling)


def _evaluation_problems(evaluation: EvaluationConfig) -> Iterator[Problem]:
    yield from _generation_problems("evaluation", evaluation)
    least = {"prompts": 2, "answers_per_prompt": 1, "n_boot": 1, "temperature": 0, "examples": 0}
    for name, value in least.items():
        yield from _least(f"evaluation.{name}", getattr(evaluation, name), value)
    yield from _wrong(
        "evaluation.dial_prompts",
        evaluation.dial_prompts < 0 or evaluation.dial_prompts == 1,
        f"{evaluation.dial_prompts} is neither 0 (no dial) nor at least 2",
    )
    if evaluation.distance_prompts is not None:
        yield from _least("evaluation.distance_prompts", evaluation.distance_prompts, 0)
    yield from _wrong(
        "evaluation.confidence",
        not 0 < evaluation.confidence < 1,
        f"{evaluation.confidence} is not between 0 and 1",
    )
    yield from _risk("evaluation.risk", evaluation.risk)
    bad = [w for w in evaluation.dial if not math.isfinite(w)]
    yield from _wrong("evaluation.dial", bool(bad), f"{bad} is not finite")


def _generation_problems(
    name: str, generation: SamplingConfig | EvaluationConfig
) -> Iterator[Problem]:
    yield from _least(f"{name}.max_new_tokens", generation.max_new_tokens, 1)
    yield from _least(f"{name}.batch_size", generation.batch_size, 1)
    yield from _wrong(
        f"{name}.top_p", not 0 < generation.top_p <= 1, f"{generation.top_p} is not in (0, 1]"
    )


def _wrong(name: str, is_wrong: bool, problem: str) -> Iterator[Problem]:
    if is_wrong:
        yield name, problem


def _positive(name: str, value: float, remedy: str = "") -> Iterator[Problem]:
    good = math.isfinite(value) and value > 0
    yield from _wrong(name, not good, f"{value} is not a positive number{remedy}")


def _least(name: str, value: float, least: int) -> Iterator[Problem]:
    good = math.isfinite(value) and value >= least
    yield from _wrong(name, not good, f"{value} is not at least {least}")


def _share(name: str, value: float) -> Iterator[Problem]:
    yield from _wrong(name, not 0 <= value < 1, f"{value} is not in [0, 1)")


def _risk(name: str, spec: str) -> Iterator[Problem]:
    try:
        get_risk(spec)
    except InputError as error:
        yield name, str(error)
