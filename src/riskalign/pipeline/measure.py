"""A model, or a point of the dial between two, measured on prompts never trained on."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from riskalign.data import can_share_prompt
from riskalign.evaluation import ScoredAnswer, score_answers
from riskalign.files.atomic import read_json_lines, write_json_lines
from riskalign.models.backends import BACKENDS
from riskalign.models.vllm import aside
from riskalign.pipeline.progress import Update
from riskalign.pipeline.settings import EvaluationConfig
from riskalign.risk import get_risk
from riskalign.tokens import backbone_of
from riskalign.worlds import Prompt, World

Scored = list[ScoredAnswer]


def measure(
    world: World,
    prompts: Sequence[Prompt],
    evaluation: EvaluationConfig,
    *,
    policy: PreTrainedModel,
    start: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    dial_to: tuple[PreTrainedModel, float] | None = None,
    update: Update | None = None,
) -> Scored:
    """Sample answers from the policy and score each: reward, cost, KL and SRR to the start model.

    KL and SRR are NaN from prompt `evaluation.distance_prompts` on.

    With `dial_to=(model_2, w)` the policy is `π_w ∝ policy^(1-w) model_2^w`.
    """
    each = evaluation.answers_per_prompt
    known = len(prompts) if evaluation.distance_prompts is None else evaluation.distance_prompts
    n_answers = len(prompts) * each
    total = n_answers + min(known, len(prompts)) * each

    def tell(note: str, offset: int) -> Callable[[int, int], None] | None:
        return None if update is None else lambda n, _: update(offset + n, total, note)

    parts: Any = policy
    models: list[Any] = [policy, start]
    if dial_to is not None:
        model_2, w = dial_to
        parts = [(policy, 1 - w), (model_2, w)]
        models.append(model_2)
    away = [start] if evaluation.backend == "vllm" else []
    with aside(*away):
        answers = BACKENDS[evaluation.backend](
            policy,
            tokenizer,
            prompts,
            **evaluation.sampling(),
            **evaluation.of_backend(),
            seed=seed,
            dial_to=dial_to,
            progress=tell("sampling", 0),
        )
    found: Scored = []
    for some, scored_by in ((slice(known), parts), (slice(known, None), None)):
        found += score_answers(
            world,
            prompts[some],
            answers[some],
            policy=scored_by,
            start=start,
            tokenizer=tokenizer,
            risk=get_risk(evaluation.risk),
            shared_prompt=can_share(*models),
            progress=tell("scoring", n_answers),
        )
    return found


def can_share(*models: PreTrainedModel) -> bool:
    """Whether all models may read a prompt once for its answers."""
    return all(can_share_prompt(backbone_of(model).config) for model in models)


def write_scored(path: Path, scored: Scored) -> None:
    """Write scored answers as JSON lines, whole or not at all."""
    write_json_lines(path, map(dataclasses.asdict, scored))


def read_scored(path: Path) -> Scored:
    """Read what `write_scored` wrote."""
    return [ScoredAnswer(**row) for row in read_json_lines(path)]
