"""`RSAConfig`: transformers' `TrainingArguments` and what one alignment step needs beside them."""

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers import TrainingArguments

from riskalign.data.tokenize import TRUNCATION_MODES, TruncationMode
from riskalign.errors import check_rules
from riskalign.losses import LOSSES, TARGETS, UNPAIRED
from riskalign.risk import get_risk


@dataclass
class RSAConfig(TrainingArguments):
    """Settings of one step; names as in TRL's `DPOConfig` wherever it has the setting.

    Defaults that differ from `TrainingArguments`: `learning_rate` 2e-5 (that of RSA's
    experiments, arXiv 2512.24263), `logging_steps` 10.

    Args:
        risk: risk measure, e.g. `"mean"`, `"cvar:0.95"`, `"erm:0.5"`.
        loss_type: one of `riskalign.losses.LOSSES`, e.g. `"rsa1"`, `"rsa2"`, `"dpo"`; or `"kto"`,
            which takes rows `prompt`, `completion`, `label`, or pairs as two such rows each.
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
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay off: the columns are not the model's."}
    )

    risk: str = field(default="cvar:0.95", metadata={"help": "Risk measure."})
    loss_type: str = field(default="rsa2", metadata={"help": "Pair loss."})
    beta: float = field(default=0.1, metadata={"help": "Temperature."})
    alpha: float = field(default=0.5, metadata={"help": "Weight of the risk term."})
    target: str = field(default="hard", metadata={"help": "Target of the margin."})
    gap_scale: float = field(default=1.0, metadata={"help": "Factor on score gaps."})
    max_gap: float | None = field(default=None, metadata={"help": "Cut-off of gaps in nats."})
    label_smoothing: float = field(default=0.0, metadata={"help": "Share of swapped labels."})
    desirable_weight: float = field(default=1.0, metadata={"help": "KTO's, of desirable ones."})
    undesirable_weight: float = field(default=1.0, metadata={"help": "KTO's, of the others."})
    max_length: int | None = field(default=512, metadata={"help": "Tokens of a sequence."})
    max_prompt_length: int | None = field(default=None, metadata={"help": "Tokens of a prompt."})
    truncation_mode: TruncationMode = field(
        default="keep_end", metadata={"help": "Part of a long prompt that is kept."}
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Train without dropout."})
    chunk_size: int | None = field(default=None, metadata={"help": "Tokens held at a time."})
    shared_prompt: bool | None = field(
        default=None, metadata={"help": "Compute each prompt once for both responses."}
    )
    cache_reference: Any = field(
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
        _check(self)
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


def _unpaired_rules(config: RSAConfig) -> list[tuple[str, bool, str]]:
    if config.loss_type not in UNPAIRED:
        return []
    why = f"which loss_type {config.loss_type!r} needs"
    return [
        ("target", config.target == "hard", f"'hard', {why}: it knows labels only"),
        ("label_smoothing", config.label_smoothing == 0, f"0, {why}"),
        ("cache_reference", config.cache_reference is None, f"None, {why}: batches differ"),
        (
            "per_device_train_batch_size",
            config.per_device_train_batch_size > 1,
            f"at least 2, {why}: its KL is taken from other rows of the batch",
        ),
    ]


def _check(config: RSAConfig) -> None:
    get_risk(config.risk)
    positive_lengths = [
        ("max_length", config.max_length, 2),
        ("max_prompt_length", config.max_prompt_length, 1),
        ("chunk_size", config.chunk_size, 1),
    ]
    rules = [
        (
            "cache_reference",
            config.cache_reference in (None, "memory", "disk"),
            "None, 'memory' or 'disk'",
        ),
        (
            "loss_type",
            config.loss_type in {*LOSSES, *UNPAIRED},
            f"one of {', '.join([*LOSSES, *UNPAIRED])}",
        ),
        ("target", config.target in TARGETS, f"one of {', '.join(TARGETS)}"),
        ("beta", config.beta > 0, "a number above 0, such as 0.1"),
        ("alpha", config.alpha >= 0, "a number of at least 0, such as 0.5"),
        ("gap_scale", config.gap_scale > 0, "a number above 0"),
        ("max_gap", config.max_gap is None or config.max_gap > 0, "None or a number above 0"),
        (
            "max_gap",
            config.max_gap is None or config.target != "hard",
            "None, or another target: 'hard' has no use for the size of a gap",
        ),
        ("desirable_weight", config.desirable_weight > 0, "a number above 0"),
        ("undesirable_weight", config.undesirable_weight > 0, "a number above 0"),
        *_unpaired_rules(config),
        ("label_smoothing", 0 <= config.label_smoothing < 0.5, "a number in [0, 0.5)"),
        (
            "truncation_mode",
            config.truncation_mode in TRUNCATION_MODES,
            f"one of {', '.join(TRUNCATION_MODES)}",
        ),
        (
            "label_smoothing",
            config.label_smoothing == 0 or config.target == "hard",
            "0, or target 'hard': other targets have their probabilities from the scores",
        ),
        (
            "risk",
            not config.loss_type.startswith("tdpo") or config.risk == "mean",
            f"'mean', which loss_type {config.loss_type!r} is defined by, or choose an rsa loss",
        ),
        ("remove_unused_columns", not config.remove_unused_columns, "False"),
        *(
            (name, value is None or value >= least, f"None or an integer of at least {least}")
            for name, value, least in positive_lengths
        ),
    ]
    check_rules(config, rules)
