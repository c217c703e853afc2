"""The models compared on prompts never trained on, and the points of the dial between them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from riskalign.data import can_share_prompt
from riskalign.evaluation import (
    METRICS,
    TAIL_LEVELS,
    ScoredAnswer,
    choose_examples,
    cvar_bounds,
    get_metrics,
    paired_differences,
    score_answers,
    summarize,
)
from riskalign.files.atomic import read_json_lines, write_json_lines
from riskalign.models.dial import DialLogitsProcessor
from riskalign.models.sampling import BACKENDS
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
    known = len(prompts) if evaluation.distance_prompts is None else evaluation.distance_prompts
    n_answers = len(prompts) * evaluation.answers_per_prompt
    n_known = min(known, len(prompts)) * evaluation.answers_per_prompt
    total = n_answers + n_known

    def tell(note: str, offset: int) -> Any:
        return None if update is None else lambda n, _: update(offset + n, total, note)

    processors = None
    parts: Any = policy
    if dial_to is not None:
        model_2, w = dial_to
        pad = tokenizer.pad_token_id
        assert pad is None or isinstance(pad, int)
        processors = LogitsProcessorList([DialLogitsProcessor(model_2, w, pad_token_id=pad)])
        parts = [(policy, 1 - w), (model_2, w)]
    answers = BACKENDS[evaluation.backend if dial_to is None else "transformers"](
        policy,
        tokenizer,
        prompts,
        answers_per_prompt=evaluation.answers_per_prompt,
        temperature=evaluation.temperature,
        top_p=evaluation.top_p,
        max_new_tokens=evaluation.max_new_tokens,
        batch_size=evaluation.batch_size,
        seed=seed,
        logits_processor=processors,
        progress=tell("sampling", 0),
    )
    models: list[Any] = [policy, start] if dial_to is None else [policy, dial_to[0], start]

    def score(some: slice, policy: Any) -> Scored:
        return score_answers(
            world,
            prompts[some],
            answers[some],
            policy=policy,
            start=start,
            tokenizer=tokenizer,
            risk=get_risk(evaluation.risk),
            shared_prompt=all(can_share_prompt(backbone_of(model).config) for model in models),
            progress=tell("scoring", n_answers),
        )

    return score(slice(known), parts) + score(slice(known, None), None)


def write_scored(path: Path, scored: Scored) -> None:
    """Write scored answers as JSON lines, whole or not at all."""
    write_json_lines(path, map(dataclasses.asdict, scored))


def read_scored(path: Path) -> Scored:
    """Read what `write_scored` wrote."""
    return [ScoredAnswer(**row) for row in read_json_lines(path)]


def compare(
    prompts: Sequence[Prompt],
    scored: Mapping[str, Scored],
    dial: Mapping[float, Scored],
    evaluation: EvaluationConfig,
    seed: int,
    max_cost: float | None = None,
) -> dict[str, Any]:
    """The measured part of results.json: models, differences, dial, costs, rewards, examples.

    `scored` holds the models in the order they were made, `start` first. `max_cost` is the world's
    largest cost, where it says one.
    """
    own_metrics = get_metrics(evaluation.metrics)
    options: dict[str, Any] = {
        "n_boot": evaluation.n_boot,
        "seed": seed,
        "confidence": evaluation.confidence,
        "severities": [a.cost for own in scored.values() for a in own if a.cost > 0],
        "max_cost": max_cost,
        "metrics": {**METRICS, **own_metrics},
    }
    names = list(scored)
    differences = {
        f"{later}_minus_{earlier}": paired_differences(scored[earlier], scored[later], **options)
        for i, later in enumerate(names)
        for earlier in names[:i]
    }
    return {
        "n_prompts": len(prompts),
        "answers_per_prompt": evaluation.answers_per_prompt,
        "confidence": evaluation.confidence,
        "models": {name: summarize(answers, **options) for name, answers in scored.items()},
        **({"metrics": [metric.words() for metric in own_metrics.values()]} if own_metrics else {}),
        "differences": differences,
        "max_cost": max_cost,
        "bounds": {}
        if max_cost is None
        else {
            name: cvar_bounds(own, TAIL_LEVELS, max_cost, evaluation.confidence)
            for name, own in scored.items()
        },
        "dial": [
            {
                "w": w,
                "n_prompts": len({answer.prompt_id for answer in answers}),
                "metrics": summarize(answers, **options),
            }
            for w, answers in sorted(dial.items())
        ],
        "costs": {
            name: sorted((a.cost for a in own), reverse=True) for name, own in scored.items()
        },
        "rewards": {
            name: sorted((a.reward for a in own), reverse=True) for name, own in scored.items()
        },
        "examples": choose_examples(prompts, scored, evaluation.examples),
    }
