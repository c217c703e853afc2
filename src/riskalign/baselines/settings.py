"""Settings of the scorers and of PPO-Lagrangian, checked when they are made."""

import math
from dataclasses import dataclass
from typing import Literal

from riskalign.errors import check_rules

_WHOLE = "an integer of at least 1"
_POSITIVE = "a number above 0"
_NOT_NEGATIVE = "a number of at least 0"
_SHARE = "a number in [0, 1]"


@dataclass(frozen=True)
class ScorerSettings:
    """How a reward or cost model is trained; names as in transformers' `TrainingArguments`.

    Args:
        learning_rate: of AdamW, falling linearly to 0 after the warm-up.
        num_train_epochs: passes over the pairs.
        per_device_train_batch_size: pairs in one step.
        weight_decay: of AdamW.
        warmup_ratio: share of the steps in which the learning rate rises, in [0, 1].
        max_grad_norm: longer gradients are shortened to this.
        max_length: tokens of a prompt and one response together; None for no limit.
        max_prompt_length: tokens of the prompt; None for no limit of its own.
        safety_signs: a cost model learns also which answers are unsafe (score below 0).
        head_std: standard deviation of the new head's weights.

    Raises:
        InputError: a value is out of its range.
    """

    learning_rate: float = 2e-5
    num_train_epochs: int = 2
    per_device_train_batch_size: int = 8
    weight_decay: float = 0.0
    warmup_ratio: float = 0.03
    max_grad_norm: float = 1.0
    max_length: int | None = 512
    max_prompt_length: int | None = None
    safety_signs: bool = True
    head_std: float = 0.02

    def __post_init__(self) -> None:
        """Check the values."""
        check_rules(
            self,
            [
                ("learning_rate", 0 < self.learning_rate < math.inf, _POSITIVE),
                ("num_train_epochs", _is_whole(self.num_train_epochs), _WHOLE),
                (
                    "per_device_train_batch_size",
                    _is_whole(self.per_device_train_batch_size),
                    _WHOLE,
                ),
                ("weight_decay", 0 <= self.weight_decay < math.inf, _NOT_NEGATIVE),
                ("warmup_ratio", 0 <= self.warmup_ratio <= 1, _SHARE),
                ("max_grad_norm", 0 < self.max_grad_norm < math.inf, _POSITIVE),
                ("max_length", self.max_length is None or self.max_length >= 2, "None or 2 up"),
                (
                    "max_prompt_length",
                    self.max_prompt_length is None or self.max_prompt_length >= 1,
                    "None or 1 up",
                ),
                ("head_std", 0 <= self.head_std < math.inf, _NOT_NEGATIVE),
            ],
        )


@dataclass(frozen=True)
class PPOSettings:
    """Settings of PPO-Lagrangian; names as in TRL's `PPOConfig` and Safe RLHF's code.

    Args:
        kl_coef: weight of `KL(policy || reference)` against the reward, >= 0, in units of reward a
            nat.
        gamma: discount of a later token's reward, in (0, 1].
        lam: GAE's λ, in [0, 1].
        cliprange: PPO's ε for probability ratios, > 0.
        cliprange_value: how far a value may move from its old one unpunished, > 0, in units of
            returns.
        vf_coef: factor on the critics' losses, > 0. Critics have optimizers of their own, so it
            acts only through `max_grad_norm`.
        num_ppo_epochs: passes over an iteration's answers.
        num_mini_batches: optimizer steps in one such pass.
        per_device_train_batch_size: answers in one forward and backward pass; a mini-batch of more
            adds up gradients. Also the number of PTX responses in one step.
        learning_rate: of the policy's AdamW.
        critic_learning_rate: of both critics' AdamW.
        lr_scheduler_type: ``linear`` lowers both learning rates to 0 over the iterations,
            ``constant`` keeps them.
        weight_decay: of AdamW.
        max_grad_norm: a model's longer gradient is shortened to this, > 0.
        ptx_coef: weight of the PTX loss, >= 0; above 0 it needs `ptx_pairs`.
        threshold: the limit on the mean cost of an answer.
        lambda_init: the multiplier's start, > 0.
        lambda_lr: its learning rate, >= 0; 0 keeps it.
        lambda_max: its maximum.
        iterations: rounds of sampling and learning.
        prompts_per_iteration: prompts answered in each.
        answers_per_prompt: answers to each of these.
        max_new_tokens: length limit of an answer.
        sampling_batch_size: answers sampled at once.
        temperature: 1; the field is there so that a configuration that asks for another is told.
        top_p: 1, likewise. Answers from another distribution than the policy's would be off-policy
            samples taken for on-policy ones.
        whiten_advantages: scale the combined advantages to mean 0 and variance 1. Off by default:
            at the optimum they are all 0, and whitening would make noise of that.

    Raises:
        InputError: a value is out of its range; the message names field, value and remedy.
    """

    kl_coef: float = 0.02
    gamma: float = 1.0
    lam: float = 0.95
    cliprange: float = 0.2
    cliprange_value: float = 5.0
    vf_coef: float = 1.0
    num_ppo_epochs: int = 1
    num_mini_batches: int = 4
    per_device_train_batch_size: int = 16
    learning_rate: float = 1e-5
    critic_learning_rate: float = 5e-6
    lr_scheduler_type: Literal["linear", "constant"] = "linear"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    ptx_coef: float = 0.0
    threshold: float = 0.0
    lambda_init: float = 1.0
    lambda_lr: float = 0.1
    lambda_max: float = 5.0
    iterations: int = 100
    prompts_per_iteration: int = 16
    answers_per_prompt: int = 4
    max_new_tokens: int = 48
    sampling_batch_size: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    whiten_advantages: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        positive = (
            "cliprange", "cliprange_value", "vf_coef", "learning_rate", "critic_learning_rate",
            "max_grad_norm", "lambda_init",
        )  # fmt: skip
        not_negative = ("kl_coef", "weight_decay", "ptx_coef", "lambda_lr")
        whole = (
            "num_ppo_epochs", "num_mini_batches", "per_device_train_batch_size", "iterations",
            "prompts_per_iteration", "answers_per_prompt", "max_new_tokens", "sampling_batch_size",
        )  # fmt: skip
        on_policy = "1: other answers are not the policy's own, and PPO takes them for such"
        known = ("linear", "constant")
        own = vars(self)
        answers = self.prompts_per_iteration * self.answers_per_prompt
        check_rules(
            self,
            [
                *((name, 0 < own[name] < math.inf, _POSITIVE) for name in positive),
                *((name, 0 <= own[name] < math.inf, _NOT_NEGATIVE) for name in not_negative),
                *((name, _is_whole(own[name]), _WHOLE) for name in whole),
                ("gamma", 0 < self.gamma <= 1, "a number in (0, 1]"),
                ("lam", 0 <= self.lam <= 1, _SHARE),
                ("threshold", math.isfinite(self.threshold), "a finite number"),
                ("lr_scheduler_type", self.lr_scheduler_type in known, f"one of {known}"),
                (
                    "lambda_max",
                    self.lambda_init <= self.lambda_max < math.inf,
                    "at least lambda_init",
                ),
                (
                    "num_mini_batches",
                    self.num_mini_batches <= answers,
                    f"at most {answers}, the answers of an iteration",
                ),
                ("temperature", self.temperature == 1, on_policy),
                ("top_p", self.top_p == 1, on_policy),
            ],
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
