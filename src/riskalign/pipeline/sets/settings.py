"""What `riskalign evaluate` on evaluation sets can be told, checked before any work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from riskalign.errors import InputError
from riskalign.models.sampling import Backend
from riskalign.risk import get_risk
from riskalign.settings import (
    LISTED,
    Between,
    Count,
    Flag,
    Name,
    NotLess,
    NotNegative,
    Number,
    UpToOne,
    Whole,
    Words,
    known,
    settings,
)

_NAME = re.compile(r"[\w.@+-]{1,80}")


@settings
class SetsSettings:
    """Which sets, scorers and baseline, and how answers are sampled and measured.

    `prompts`, `helpful_prompts` and `over_refusal` are sources of `load_prompt_set`, with `split`,
    `prompt_field`, `category_field` and `max_prompts` for all three; `r_judge` is one of
    `load_risk_set`. Helpfulness is measured on `helpful_prompts`, else on `prompts`.
    `scorer_reward` and `scorer_cost` are folders of `riskalign.scorers.load_scorer`. They are
    refused where they learnt from a prompt that is asked, or that a model was trained on as far as
    its folder tells, and where they are not independent of the scorers in the folders
    `trained_with`, those that took part in training the models. `baseline`
    names the model that the others are held against, by default the first. KL and SRR (under
    `risk`) to it are measured on the first `distance_prompts` prompts (None: all). `threshold` is
    what log P(Yes) - log P(No) must exceed for a record to be called unsafe, `max_length` the
    longest question in tokens (None: what the model has positions for). `bf16` None takes bfloat16
    where the device has it natively.

    Raises `InputError`, naming the field, for a value out of range.
    """

    prompts: Words | None = None
    helpful_prompts: Words | None = None
    over_refusal: Words | None = None
    r_judge: Words | None = None
    scorer_reward: Words | None = None
    scorer_cost: Words | None = None
    trained_with: Annotated[tuple[Words, ...], LISTED] = ()
    output_dir: Name = "runs/evaluate"
    baseline: Words | None = None
    split: Words = "train"
    prompt_field: Words = "prompt"
    category_field: Words | None = None
    max_prompts: Count | None = None
    answers_per_prompt: Count = 4
    temperature: NotNegative = 1.0
    top_p: UpToOne = 1.0
    max_new_tokens: Count = 128
    batch_size: Count = 64
    backend: Backend = "transformers"
    distance_prompts: NotLess | None = None
    risk: Annotated[Words, known(get_risk)] = "cvar:0.95"
    threshold: Number = 0.0
    max_length: Count | None = None
    seed: Whole = 0
    n_boot: Annotated[Count, Field(le=1_000_000)] = 2000
    confidence: Between = 0.95
    bf16: Flag | None = None
    trust_remote_code: Flag = False

    def __post_init__(self) -> None:
        """Refuse the first field that is out of range."""
        if not (self.prompts or self.helpful_prompts or self.over_refusal or self.r_judge):
            raise InputError(
                "evaluate: no set is named. Give --prompts, --helpful_prompts, --over_refusal or "
                "--r_judge."
            )


def named_models(models: Sequence[str]) -> dict[str, str]:
    """Name and source of each `NAME=SOURCE`, or of a source alone, named after its last part.

    Raises:
        InputError: no model, a name that two have or that cannot be a file's.
    """
    if not models:
        raise InputError("--model: no model is named. Give --model NAME=FOLDER or --model HUB_ID.")
    found: dict[str, str] = {}
    for text in models:
        name, equals, source = text.partition("=")
        if not equals:
            name, source = Path(text).name.replace(":", "-"), text
        if not _NAME.fullmatch(name) or name.startswith("."):
            raise InputError(
                f"--model {text!r}: {name!r} cannot name a file. Give --model NAME=FOLDER with "
                "letters, digits, '-', '_' or '.' in the name."
            )
        if not source:
            raise InputError(f"--model {text!r}: the folder is missing after '='.")
        if name.lower() in map(str.lower, found):
            raise InputError(
                f"--model {text!r}: a model is named {name!r} already. Give --model NAME=FOLDER "
                "with another name."
            )
        found[name] = source
    return found
