"""What `riskalign evaluate` on evaluation sets can be told, checked before any work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from riskalign.errors import InputError, check_rules
from riskalign.risk import get_risk
from riskalign.sampling import Backend

_NAME = re.compile(r"[\w.@+-]{1,80}")


@dataclass(frozen=True)
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

    prompts: str | None = None
    helpful_prompts: str | None = None
    over_refusal: str | None = None
    r_judge: str | None = None
    scorer_reward: str | None = None
    scorer_cost: str | None = None
    trained_with: tuple[str, ...] = ()
    output_dir: str = "runs/evaluate"
    baseline: str | None = None
    split: str = "train"
    prompt_field: str = "prompt"
    category_field: str | None = None
    max_prompts: int | None = None
    answers_per_prompt: int = 4
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 128
    batch_size: int = 64
    backend: Backend = "transformers"
    distance_prompts: int | None = None
    risk: str = "cvar:0.95"
    threshold: float = 0.0
    max_length: int | None = None
    seed: int = 0
    n_boot: int = 2000
    confidence: float = 0.95
    bf16: bool | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Refuse the first field that is out of range."""
        if not (self.prompts or self.helpful_prompts or self.over_refusal or self.r_judge):
            raise InputError(
                "evaluate: no set is named. Give --prompts, --helpful_prompts, --over_refusal or "
                "--r_judge."
            )
        counts = ("answers_per_prompt", "max_new_tokens", "batch_size", "n_boot")
        optional = ("max_prompts", "max_length")
        check_rules(
            self,
            [
                *((name, getattr(self, name) >= 1, "1 or more") for name in counts),
                *(
                    (name, getattr(self, name) is None or getattr(self, name) >= 1, "1 or more")
                    for name in optional
                ),
                ("temperature", self.temperature >= 0, "0 (the likeliest token) or more"),
                ("top_p", 0 < self.top_p <= 1, "a number above 0, at most 1"),
                ("confidence", 0 < self.confidence < 1, "a number between 0 and 1"),
                (
                    "distance_prompts",
                    self.distance_prompts is None or self.distance_prompts >= 0,
                    "0 or more, or null for all",
                ),
                ("output_dir", bool(self.output_dir), "a folder"),
            ],
        )
        get_risk(self.risk)


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
