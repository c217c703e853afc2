"""The groups of a job's configuration: what a step, sampling, an adapter, an evaluation need."""

from dataclasses import dataclass
from typing import Literal

from riskalign.errors import InputError
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
    `save_steps` steps or never, by `save_strategy`, and the log has an entry there.
    """

    skip: bool = False
    data: str | None = None
    own_answers: bool = False
    rows: Literal["pairs", "groups"] = "pairs"
    anchors: float = 0.0
    eval_data: str | None = None
    max_eval_samples: int = 200
    risk: str = "cvar:0.95"
    loss_type: str = "rsa1"
    target: Literal["hard", "soft", "gap", "offset"] = "gap"
    alpha: float = 0.5
    gap_scale: float = 1.0
    max_gap: float | None = None
    answer_risk: str | None = None
    limit: float | None = None
    safe_cost: float | None = None
    safety_margin: float = 1.0
    label_smoothing: float = 0.0
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    beta: float | None = None
    learning_rate: float = 2e-5
    num_train_epochs: float = 2.0
    max_steps: int = -1
    per_device_train_batch_size: int = 4
    per_device_eval_batch_size: int = 8
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
class SFTConfig:
    """The start step: supervised tuning on a world's demonstrations, the loss on answers alone.

    `demonstrations` counts prompts, each with as many answers as the world shows, and so do batch
    sizes. The optimisation has transformers' names. `seed` (the job's own by default) of the
    demonstrations and their order: with one given, jobs of several seeds start from one model.
    """

    demonstrations: int = 160
    learning_rate: float = 2e-3
    num_train_epochs: float = 1.0
    max_steps: int = -1
    per_device_train_batch_size: int = 2
    gradient_accumulation_steps: int = 1
    max_length: int = 512
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lr_scheduler_type: str = "linear"
    logging_steps: int = 1
    seed: int | None = None


@dataclass(frozen=True)
class LoraSettings:
    """A LoRA adapter; trained in each step and merged into the weights at its end."""

    r: int = 16
    lora_alpha: int = 32
    target_modules: str | tuple[str, ...] = "all-linear"
    lora_dropout: float = 0.0


@dataclass(frozen=True)
class ScoringConfig:
    """What judges the answers of a job on a data set: a reward and a cost scorer.

    `reward` and `cost` are folders that `riskalign score train` wrote. One that is None is trained
    by the job, on `encoder`, from the prompts that `data.scorer_fraction` sets aside. `prompts` is
    a file of prompts to ask (see `riskalign.sets.load_prompt_set`) instead of the held-out ones.
    """

    reward: str | None = None
    cost: str | None = None
    encoder: str = "minilm"
    prompts: str | None = None


@dataclass(frozen=True)
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
