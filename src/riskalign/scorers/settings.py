"""Settings of a scorer's training, checked when they are made."""

from typing import Annotated

from pydantic import Field

from riskalign.settings import Count, Flag, NotNegative, Positive, ToOne, Whole, settings


@settings
class ScorerSettings:
    """How a reward or cost model is trained; names as in transformers' `TrainingArguments`.

    Raises:
        InputError: a value is out of its range.
    """

    learning_rate: Positive = 2e-5
    """Of AdamW, falling linearly to 0 after the warm-up."""
    num_train_epochs: Count = 2
    """Passes over the pairs."""
    per_device_train_batch_size: Count = 8
    """Pairs in one step."""
    weight_decay: NotNegative = 0.0
    """Of AdamW."""
    warmup_ratio: ToOne = 0.03
    """Share of the steps in which the learning rate rises, in [0, 1]."""
    max_grad_norm: Positive = 1.0
    """Longer gradients are shortened to this."""
    max_length: Annotated[Whole, Field(ge=2)] | None = 512
    """Tokens of a prompt and one response together; None for no limit."""
    max_prompt_length: Count | None = None
    """Tokens of the prompt; None for no limit of its own."""
    safety_signs: Flag = True
    """A cost model learns also which answers are unsafe (score below 0)."""
    head_std: NotNegative = 0.02
    """Standard deviation of the new head's weights."""
