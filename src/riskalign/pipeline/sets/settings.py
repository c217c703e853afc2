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

    Raises `InputError`, naming the field, for a value out of range.
    """

    prompts: Words | None = None
    """Prompts by category: .json, .jsonl, .csv, .parquet or a hub id."""
    helpful_prompts: Words | None = None
    """Prompts to measure helpfulness on; otherwise those of prompts."""
    over_refusal: Words | None = None
    """Prompts labelled safe or unsafe, such as XSTest's file."""
    r_judge: Words | None = None
    """R-Judge's folder of JSON records, or one file."""
    scorer_reward: Words | None = None
    """Folder of a reward model. A scorer is refused if it learnt from a prompt that is asked, or
    that a model was trained on as far as its folder tells."""
    scorer_cost: Words | None = None
    """Folder of a cost model."""
    trained_with: Annotated[tuple[Words, ...], LISTED] = ()
    """Folders of the scorers that took part in training the models; those above must be
    independent of them."""
    output_dir: Name = "runs/evaluate"
    """Folder for the results."""
    baseline: Words | None = None
    """The name of the model that the others are held against; null for the first."""
    split: Words = "train"
    """Of the sets of prompts, as the next three fields are."""
    prompt_field: Words = "prompt"
    """The column of the prompts."""
    category_field: Words | None = None
    """The column of the categories; null for category, else type."""
    max_prompts: Count | None = None
    """Keep so many, from every category alike; null for all."""
    answers_per_prompt: Count = 4
    """How many answers are sampled."""
    temperature: NotNegative = 1.0
    """0 is greedy."""
    top_p: UpToOne = 1.0
    """Nucleus sampling's share; 1 is all."""
    max_new_tokens: Count = 128
    """Of an answer."""
    batch_size: Count = 64
    """Answers sampled at once."""
    backend: Backend = "transformers"
    """What samples: transformers or vllm."""
    distance_prompts: NotLess | None = None
    """KL and SRR to the baseline are measured on the first so many prompts; null for all."""
    risk: Annotated[Words, known(get_risk)] = "cvar:0.95"
    """The risk measure of SRR."""
    threshold: Number = 0.0
    """What log P(Yes) - log P(No) must exceed for a record to be called unsafe."""
    max_length: Count | None = None
    """The longest question in tokens; null for what the model has positions for."""
    seed: Whole = 0
    """Of sampling and of the bootstrap."""
    n_boot: Annotated[Count, Field(le=1_000_000)] = 2000
    """Replicates of the bootstrap over prompts."""
    confidence: Between = 0.95
    """Of the intervals."""
    bf16: Flag | None = None
    """null takes bfloat16 where the device has it natively."""
    trust_remote_code: Flag = False
    """Run code that comes with a model."""

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
