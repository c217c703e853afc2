"""What one step is trained with: settings that a job and `RSAConfig` share, and `RSAConfig`.

A setting's default is stated here once. `StepConfig` of a job has two other ones, `loss_type` and
`target`, for its steps have scores; `RSAConfig` has TRL's, where `Optimisation` differs.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import torch
from pydantic import AfterValidator, Field
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from riskalign.data.tokenize import TruncationMode
from riskalign.errors import FieldError, InputError
from riskalign.losses import TARGETS, UNPAIRED, check_options, own_parameters
from riskalign.risk import get_risk
from riskalign.settings import (
    FROM_JSON,
    Count,
    Flag,
    NotNegative,
    Number,
    Positive,
    Share,
    Whole,
    Words,
    check,
    expect,
    field_meanings,
    known,
)

Risk = Annotated[Words, known(get_risk)]
LossType = Annotated[Words, known(own_parameters)]
Target = Literal[TARGETS]  # type: ignore[valid-type]
_SCORED = tuple(target for target in TARGETS if target != "hard")
Tokens = Annotated[Whole, Field(ge=2)]
_NOT_0 = AfterValidator(expect("-1 (all epochs), or at least 1", lambda steps: steps != 0))
Steps = Annotated[Whole, Field(ge=-1), _NOT_0]
# These need arguments, or a metric that is measured meanwhile, which a job's step has not.
_NEED_MORE = {
    "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
    "reduce_lr_on_plateau", "greedy",
}  # fmt: skip
_SCHEDULERS = tuple(each.value for each in SchedulerType if each.value not in _NEED_MORE)
Scheduler = Literal[_SCHEDULERS]  # type: ignore[valid-type]
_OPTIMIZERS = tuple(each.value for each in OptimizerNames)
Optimizer = Literal[_OPTIMIZERS]  # type: ignore[valid-type]

#: Fields of `Optimisation` that are handed on only where they are given.
ENGINE = ("optim", "fsdp", "fsdp_config", "deepspeed")


@dataclass
class LossSettings:
    """A step's loss and the rows that it takes; `RSAConfig` and a job's steps have these fields."""

    risk: Risk = "cvar:0.95"
    """Token-level risk measure, such as mean, cvar:0.95 or erm:0.5."""
    loss_type: LossType = "rsa2"
    """rsa1, rsa2, tdpo1, tdpo2, dpo, package.module:function; kto, on labelled answers or pairs."""
    loss_options: Annotated[dict[str, Number] | str | None, FROM_JSON] = None
    """A loss's own parameters, by name."""
    target: Target = "hard"
    """What the margin is pulled towards: hard (order only), or by scores soft, gap or offset."""
    alpha: NotNegative = 0.5
    """Weight of the risk term of rsa2 and tdpo2."""
    gap_scale: Positive = 1.0
    """Factor on score gaps; with it they are the margin's targets."""
    max_gap: Positive | None = None
    """Scores are cut at so many nats (times beta) below their row's best; null cuts nothing."""
    label_smoothing: Annotated[NotNegative, Field(lt=0.5)] = 0.0
    """Assumed share of swapped labels."""
    desirable_weight: Positive = 1.0
    """KTO's weight of desirable responses."""
    undesirable_weight: Positive = 1.0
    """The same of the others."""
    max_length: Tokens | None = 512
    """Tokens of a prompt and one response together; null for no limit."""
    max_prompt_length: Count | None = None
    """Tokens of the prompt; null for no limit of its own."""
    truncation_mode: TruncationMode = "keep_end"
    """Which part of a long prompt stays: keep_end or keep_start."""
    cache_reference: Literal["memory", "disk"] | None = None
    """Keep the reference's hidden states for later epochs: 4 bytes x hidden size a token in all."""
    dataset_num_proc: Count | None = None
    """Processes that tokenize; null for one, in which a fast tokenizer uses all cores itself."""
    cache_dataset: Flag = True
    """Keep tokenized rows of large files and data sets for the next run (docs/data.md)."""
    dataset_streaming: Flag = False
    """Read a hub id's rows as they come, without storing all; needs max_train_samples."""
    max_train_samples: Count | None = None
    """Take the first so many rows to train on; null for all."""
    compile_layers: Flag = False
    """Compile the decoder layers: half a minute once, then less time and memory a step."""


@dataclass
class Optimisation:
    """How a job optimises, in its steps and its start step; names as in `TrainingArguments`."""

    learning_rate: Positive = 2e-5  # of RSA's experiments, arXiv 2512.24263
    """Of AdamW."""
    num_train_epochs: Positive = 2.0
    """Passes over the rows."""
    max_steps: Steps = -1
    """Optimizer steps; -1 for as many as the epochs have."""
    per_device_train_batch_size: Count = 4
    """Pairs (groups, under KTO responses, in the start step prompts) at once on a device."""
    gradient_accumulation_steps: Count = 1
    """Batches in one optimizer step."""
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
    optim: Optimizer | None = None
    """Optimizer, by its name in transformers; null for AdamW as it has it."""
    fsdp: Flag | Words | None = None
    """Shard by FSDP, as in `TrainingArguments`; with launch."""
    fsdp_config: dict[str, Any] | Words | None = None
    """Its settings, or a JSON file of them."""
    deepspeed: dict[str, Any] | Words | None = None
    """DeepSpeed's settings, or a JSON file of them; with launch."""

    def engine(self) -> dict[str, Any]:
        """What of these fields is given, as arguments of a `Trainer`."""
        fields = {name: getattr(self, name) for name in ENGINE}
        return {name: value for name, value in fields.items() if value not in (None, False)}

    def engine_files(self) -> dict[str, Path]:
        """Those of them that are files."""
        given = {name: getattr(self, name) for name in ("fsdp_config", "deepspeed")}
        return {name: Path(value) for name, value in given.items() if isinstance(value, str)}

    def engine_contents(self) -> dict[str, str]:
        """What these files hold."""
        files = self.engine_files().items()
        return {name: path.read_text(encoding="utf-8") for name, path in files}


@dataclass
class RSAConfig(LossSettings, TrainingArguments):
    """Settings of one step; names as in TRL's `DPOConfig` wherever it has the setting.

    Beside the fields of `LossSettings` and those below it has those of `TrainingArguments`, with
    their defaults except for `learning_rate` and `logging_steps`.

    Raises:
        InputError: a value is out of its range; the message names field, value and remedy.
    """

    learning_rate: float = Optimisation.learning_rate
    """Of AdamW."""
    logging_steps: float = 10
    """Steps between logs."""
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = 42
    """Decides every random number; what numpy takes."""
    remove_unused_columns: Literal[False] = False
    """Must stay off: the columns are not the model's."""
    beta: Positive = 0.1
    """Temperature; higher keeps the policy closer to the reference."""
    disable_dropout: Flag = True
    """Train without the model's dropout; a new adapter keeps that of its peft_config."""
    chunk_size: Count | None = None
    """Response tokens whose logits are held at a time, and computed again; None holds all once."""
    shared_prompt: Flag | None = None
    """Compute each prompt once for both responses; None does where that is known to be exact."""
    max_eval_samples: Count | None = None
    """Take the first so many rows of a set to evaluate on; null for all."""
    model_init_kwargs: Annotated[dict[str, Any] | str | None, FROM_JSON] = None
    """For a model given by name, passed to from_pretrained."""
    trust_remote_code: Flag = False
    """Run code that comes with a model given by name."""

    def __post_init__(self) -> None:
        """Check the values, then let `TrainingArguments` do the same with its own."""
        for name in ("save_strategy", "eval_strategy", "logging_strategy"):
            if getattr(self, name) is False:  # what YAML takes a bare `no` for
                setattr(self, name, "no")
        if isinstance(self.cache_reference, bool):  # as a setting of its kind is given in TRL
            self.cache_reference = "memory" if self.cache_reference else None
        hints = get_type_hints(RSAConfig, include_extras=True)
        flags = {name: Flag | None for name, kind in hints.items() if kind in (bool, bool | None)}
        own = [*LossSettings.__annotations__, *RSAConfig.__annotations__]
        check(self, flags | {name: hints[name] for name in own})
        check_loss(self)
        if self.gradient_checkpointing is not None and hasattr(self, "activation_checkpointing"):
            # The field's new name; by its old one TrainingArguments takes it with a warning.
            self.activation_checkpointing = self.gradient_checkpointing
            self.activation_checkpointing_kwargs = self.gradient_checkpointing_kwargs
            self.gradient_checkpointing = self.gradient_checkpointing_kwargs = None
        if self.torch_compile or self.torch_compile_mode or self.torch_compile_backend:
            # `Trainer` would compile the forward pass, which the loss here does not call.
            self.compile_layers, self.torch_compile = True, False
            self.torch_compile_mode = self.torch_compile_backend = None
        if self.ddp_find_unused_parameters is None:
            # Every trainable parameter takes part in every step.
            self.ddp_find_unused_parameters = False
        if not getattr(torch, "accelerator", torch.cuda).is_available():
            # There is nothing to pin memory for, and torch warns at every data loader.
            self.dataloader_pin_memory = False
            # Else TrainingArguments refuses bf16, which a processor can do as well.
            self.use_cpu = self.use_cpu or bool(self.bf16)
        super().__post_init__()  # type: ignore[no-untyped-call]
        loading: Any = self.accelerator_config
        if loading.dispatch_batches:
            problem = "has dispatch_batches on, which cuts a batch's tensors at wrong places"
            raise FieldError("accelerator_config", f"{problem}; leave it out")
        if not loading.even_batches and self.world_size > 1:
            problem = "has even_batches off, with which processes wait for ever for one another"
            raise FieldError("accelerator_config", f"{problem}; leave it out: no repeat counts")


for _field in fields(RSAConfig):  # what `HfArgumentParser` prints
    if _field.name in (_meanings := field_meanings(RSAConfig)):
        _field.metadata = {"help": _meanings[_field.name]}  # type: ignore[assignment]


def check_needs(step: Any, needs: Iterable[tuple[str, str, Collection[Any]]]) -> None:
    """Raise `FieldError` for a field that is given while another has not one of some values."""
    defaults = {field.name: field.default for field in fields(step)}
    for name, other, values in needs:
        if getattr(step, name) != defaults[name] and getattr(step, other) not in values:
            words = " or ".join("null" if value is None else str(value) for value in values)
            raise FieldError(name, f"is given, which needs {other}: {words}")


def check_loss(step: Any) -> None:
    """Raise `FieldError` for what does not go together, in fields of `LossSettings`."""
    try:
        check_options(step.loss_type, step.loss_options)
    except InputError as error:
        raise FieldError("loss_options", str(error)) from None
    check_needs(step, (("max_gap", "target", _SCORED), ("label_smoothing", "target", ("hard",))))
    why = f"which loss_type {step.loss_type!r} needs"
    if step.loss_type.startswith("tdpo") and step.risk != "mean":
        raise FieldError("risk", f"{step.risk!r} is not 'mean', {why}; rsa takes any measure")
    if step.loss_type not in UNPAIRED:
        return
    for name, only in (("target", "hard"), ("label_smoothing", 0.0), ("cache_reference", None)):
        if getattr(step, name) != only:
            raise FieldError(name, f"is not {'null' if only is None else only}, {why}")
    if step.per_device_train_batch_size < 2:
        problem = f"is not at least 2, {why}: its KL is a mean over the batch"
        raise FieldError("per_device_train_batch_size", problem)
