"""Settings of PPO-Lagrangian, checked when they are made."""

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
    refuse,
    settings,
    wrong,
)

#: Other answers are not the policy's own, and PPO takes them for such.
OnPolicy = Annotated[Number, Field(ge=1, le=1)]


@settings
class PPOSettings:
    """Settings of PPO-Lagrangian; names as in TRL's `PPOConfig` and Safe RLHF's code.

    Raises `InputError`: a value is out of its range; the message names field, value and remedy.
    """

    kl_coef: NotNegative = 0.02
    """Weight of `KL(policy || reference)` against the reward, >= 0, in units of reward a nat."""
    gamma: UpToOne = 1.0
    """Discount of a later token's reward, in (0, 1]."""
    lam: ToOne = 0.95
    """GAE's λ, in [0, 1]."""
    cliprange: Positive = 0.2
    """PPO's ε for probability ratios, > 0."""
    cliprange_value: Positive = 5.0
    """How far a value may move from its old one unpunished, > 0, in units of returns."""
    vf_coef: Positive = 1.0
    """Factor on the critics' losses, > 0. Critics have optimizers of their own, so it acts only
    through `max_grad_norm`."""
    num_ppo_epochs: Count = 1
    """Passes over an iteration's answers."""
    num_mini_batches: Count = 4
    """Optimizer steps in one such pass."""
    per_device_train_batch_size: Count = 16
    """Answers in one forward and backward pass; a mini-batch of more adds up gradients. Also the
    number of PTX responses in one step."""
    learning_rate: Positive = 1e-5
    """Of the policy's AdamW."""
    critic_learning_rate: Positive = 5e-6
    """Of both critics' AdamW."""
    lr_scheduler_type: Literal["linear", "constant"] = "linear"
    """linear lowers both learning rates to 0 over the iterations, constant keeps them."""
    weight_decay: NotNegative = 0.0
    """Of AdamW."""
    max_grad_norm: Positive = 1.0
    """A model's longer gradient is shortened to this, > 0."""
    ptx_coef: NotNegative = 0.0
    """Weight of the PTX loss, >= 0; above 0 it needs `ptx_pairs`."""
    threshold: Number = 0.0
    """The limit on the mean cost of an answer."""
    lambda_init: Positive = 1.0
    """The multiplier's start, > 0."""
    lambda_lr: NotNegative = 0.1
    """Its learning rate, >= 0; 0 keeps it."""
    lambda_max: Positive = 5.0
    """Its maximum."""
    iterations: Count = 100
    """Rounds of sampling and learning."""
    prompts_per_iteration: Count = 16
    """Prompts answered in each."""
    answers_per_prompt: Count = 4
    """Answers to each of these."""
    max_new_tokens: Count = 48
    """Length limit of an answer."""
    sampling_batch_size: Count = 64
    """Answers sampled at once."""
    temperature: OnPolicy = 1.0
    """1; the field is there so that a configuration that asks for another is told."""
    top_p: OnPolicy = 1.0
    """1, likewise. Answers from another distribution than the policy's would be off-policy samples
    taken for on-policy ones."""
    whiten_advantages: Flag = False
    """Scale the combined advantages to mean 0 and variance 1. Off by default: at the optimum they
    are all 0, and whitening would make noise of that."""

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        answers = self.prompts_per_iteration * self.answers_per_prompt
        low, many = self.lambda_max < self.lambda_init, self.num_mini_batches > answers
        refuse(wrong("lambda_max", low, f"{self.lambda_max} is not at least lambda_init"))
        problem = f"{self.num_mini_batches} is more than {answers}, the answers of an iteration"
        refuse(wrong("num_mini_batches", many, problem))
