"""Settings of the scorers and of PPO-Lagrangian, checked when they are made."""

from typing import Annotated, Literal

from pydantic import Field

from riskalign.settings import (
    Count,
    Flag,
    NotNegative,
    Number,
    Positive,
    ToOne,
    UpToOne,
    Whole,
    refuse,
    settings,
    wrong,
)

#: Other answers are not the policy's own, and PPO takes them for such.
OnPolicy = Annotated[Number, Field(ge=1, le=1)]


@settings
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

    learning_rate: Positive = 2e-5
    num_train_epochs: Count = 2
    per_device_train_batch_size: Count = 8
    weight_decay: NotNegative = 0.0
    warmup_ratio: ToOne = 0.03
    max_grad_norm: Positive = 1.0
    max_length: Annotated[Whole, Field(ge=2)] | None = 512
    max_prompt_length: Count | None = None
    safety_signs: Flag = True
    head_std: NotNegative = 0.02


@settings
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

    kl_coef: NotNegative = 0.02
    gamma: UpToOne = 1.0
    lam: ToOne = 0.95
    cliprange: Positive = 0.2
    cliprange_value: Positive = 5.0
    vf_coef: Positive = 1.0
    num_ppo_epochs: Count = 1
    num_mini_batches: Count = 4
    per_device_train_batch_size: Count = 16
    learning_rate: Positive = 1e-5
    critic_learning_rate: Positive = 5e-6
    lr_scheduler_type: Literal["linear", "constant"] = "linear"
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    ptx_coef: NotNegative = 0.0
    threshold: Number = 0.0
    lambda_init: Positive = 1.0
    lambda_lr: NotNegative = 0.1
    lambda_max: Positive = 5.0
    iterations: Count = 100
    prompts_per_iteration: Count = 16
    answers_per_prompt: Count = 4
    max_new_tokens: Count = 48
    sampling_batch_size: Count = 64
    temperature: OnPolicy = 1.0
    top_p: OnPolicy = 1.0
    whiten_advantages: Flag = False

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        answers = self.prompts_per_iteration * self.answers_per_prompt
        refuse(
            wrong(
                "lambda_max",
                self.lambda_max < self.lambda_init,
                f"{self.lambda_max} is not at least lambda_init",
            )
        )
        refuse(
            wrong(
                "num_mini_batches",
                self.num_mini_batches > answers,
                f"{self.num_mini_batches} is more than {answers}, the answers of an iteration",
            )
        )
