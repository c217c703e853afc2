"""`RSAConfig`: transformers' `TrainingArguments` and what one alignment step needs beside them."""

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, get_type_hints

import torch
from pydantic import Field
from transformers import TrainingArguments

from riskalign.data.tokenize import TruncationMode
from riskalign.settings import Count, NotNegative, Number, Positive, check, refuse
from riskalign.training.rules import LossType, Risk, Target, Tokens, loss_problems


@dataclass
class RSAConfig(TrainingArguments):
    """Settings of one step; names as in TRL's `DPOConfig` wherever it has the setting.

    Defaults that differ from `TrainingArguments`: `learning_rate` 2e-5 (that of RSA's
    experiments, arXiv 2512.24263), `logging_steps` 10.

    Args:
        risk: risk measure, e.g. `"mean"`, `"cvar:0.95"`, `"erm:0.5"`.
        loss_type: one of `riskalign.losses.LOSSES`, e.g. `"rsa1"`, `"rsa2"`, `"dpo"`; a function
            elsewhere, `"package.module:function"`; or `"kto"`, which takes rows `prompt`,
            `completion`, `label`, or pairs as two such rows each.
        loss_options: a loss's own parameters, e.g. `{"gamma": 0.5}`.
        beta: temperature, > 0; higher keeps the policy closer to the reference.
        alpha: weight of the risk term of `rsa2` and `tdpo2`, >= 0.
        target: `"hard"` (order only), `"soft"`, `"gap"` or `"offset"` (these need scores).
        gap_scale: the score gap is multiplied by this before it becomes a target, > 0.
        max_gap: no score counts for more than so many nats (times `beta`) below its row's best:
            a squared loss would learn little but the few that are far off. None cuts nothing.
        label_smoothing: assumed share of swapped labels, in [0, 0.5).
        desirable_weight: KTO's weight of desirable responses, > 0.
        undesirable_weight: the same for the others.
        max_length: tokens of a prompt and one response together; None for no limit.
        max_prompt_length: tokens of the prompt; None for no limit of its own.
        truncation_mode: `"keep_end"` or `"keep_start"`: which part of a long prompt stays.
        disable_dropout: train without the model's dropout, so that policy and reference differ by
            weights only; a new adapter keeps the dropout that its `peft_config` asks for.
        chunk_size: response tokens whose vocabulary-wide statistics are held at a time, with logits
            computed again in the backward pass; None takes whole pairs and computes them once.
        shared_prompt: store and compute each prompt once for both responses; None does so
            where the model is known to compute the same values that way.
        cache_reference: `"memory"` (or True) or `"disk"` (a temporary file in `output_dir`) keeps
            the reference's hidden states of the response tokens, so that later epochs need no
            forward pass of the reference; takes 4 bytes times hidden size for each such token.
        compile_layers: compile the models' decoder layers for training, also set by
            `torch_compile`: half a minute once, then less time and memory a step.
        model_init_kwargs: for a model given by name, passed to `from_pretrained`.
        trust_remote_code: run code that comes with a model given by name; off by default.

    Raises:
        InputError: a value is out of its range; the message names field, value and remedy.
    """

    learning_rate: float = field(default=2e-5, metadata={"help": "Initial learning rate."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between logs."})
    remove_unused_columns: Literal[False] = field(
        default=False, metadata={"help": "Must stay off: the columns are not the model's."}
    )

    risk: Risk = field(default="cvar:0.95", metadata={"help": "Risk measure."})
    loss_type: LossType = field(default="rsa2", metadata={"help": "Pair loss."})
    loss_options: dict[str, Number] | None = field(
        default=None, metadata={"help": "A loss's own parameters, by name."}
    )
    beta: Positive = field(default=0.1, metadata={"help": "Temperature."})
    alpha: NotNegative = field(default=0.5, metadata={"help": "Weight of the risk term."})
    target: Target = field(default="hard", metadata={"help": "Target of the margin."})
    gap_scale: Positive = field(default=1.0, metadata={"help": "Factor on score gaps."})
    max_gap: Positive | None = field(default=None, metadata={"help": "Cut-off of gaps in nats."})
    label_smoothing: Annotated[NotNegative, Field(lt=0.5)] = field(
        default=0.0, metadata={"help": "Share of swapped labels."}
    )
    desirable_weight: Positive = field(default=1.0, metadata={"help": "KTO's, of desirable ones."})
    undesirable_weight: Positive = field(default=1.0, metadata={"help": "KTO's, of the others."})
    max_length: Tokens | None = field(default=512, metadata={"help": "Tokens of a sequence."})
    max_prompt_length: Count | None = field(default=None, metadata={"help": "Tokens of a prompt."})
    truncation_mode: TruncationMode = field(
        default="keep_end", metadata={"help": "Part of a long prompt that is kept."}
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Train without dropout."})
    chunk_size: Count | None = field(default=None, metadata={"help": "Tokens held at a time."})
    shared_prompt: bool | None = field(
        default=None, metadata={"help": "Compute each prompt once for both responses."}
    )
    cache_reference: Literal["memory", "disk"] | None = field(
        default=None, metadata={"help": "Keep the reference's hidden states: memory or disk."}
    )
    compile_layers: bool = field(
        default=False, metadata={"help": "Compile the models' decoder layers for training."}
    )
    model_init_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": "Passed to from_pretrained."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run a model's own code."})

    def __post_init__(self) -> None:
        """Check the values, then let `TrainingArguments` do the same with its own."""
        # True and False are the names that a setting of its kind has in TRL.
        known = {True: "memory", False: None}
        if isinstance(self.cache_reference, bool):
            self.cache_reference = known[self.cache_reference]
        hints = get_type_hints(RSAConfig, include_extras=True)
        check(self, {name: hints[name] for name in RSAConfig.__annotations__})
        refuse(loss_problems(self))
        if self.gradient_checkpointing is not None and "activation_checkpointing" in {
            f.name for f in fields(self)
        }:
            # The field's new name; by its old one TrainingArguments takes it with a warning.
            self.activation_checkpointing = self.gradient_checkpointing
            self.activation_checkpointing_kwargs = self.gradient_checkpointing_kwargs
            self.gradient_checkpointing = None
            self.gradient_checkpointing_kwargs = None
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
