"""A step's rows from its start model's own answers in a world."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from riskalign.data import SafetyRule
from riskalign.errors import InputError
from riskalign.models import LoadedModel
from riskalign.models.sampling import BACKENDS, Answer
from riskalign.pipeline.machine import use_bf16
from riskalign.pipeline.progress import Update
from riskalign.pipeline.settings import Kind, SamplingConfig
from riskalign.pipeline.steps import for_inference
from riskalign.pipeline.tail import (
    TailAim,
    TailPlan,
    nothing_charged,
    plan_tail,
    sampled_safe_pairs,
)
from riskalign.worlds import Prompt, World
from riskalign.worlds.pairs import (
    Score,
    Scored,
    by_cost,
    by_reward,
    group_rows,
    pair_rows,
    score_answers,
)


def sample_rows(
    world: World,
    loaded: LoadedModel,
    kind: Kind,
    sampling: SamplingConfig,
    *,
    seed: int,
    bf16: bool | None = None,
    update: Update | None = None,
    rows: Literal["pairs", "groups"] = "pairs",
    anchors: float = 0.0,
    aim: TailAim | None = None,
    rule: SafetyRule | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any], TailPlan | None]:
    """Preference rows from the model's own answers to the world's training prompts.

    `rows` and `anchors` as in `StepConfig`; with a `rule` pairs by reward are SafeDPO's.

    Returns the rows, in TRL's conversational format with scores; counts:
    prompts, answers, their tokens, rows, the answers' mean reward and cost and their unsafe rate;
    and where `aim` is given what costs are charged for the risk of whole answers.

    Raises `InputError` when no prompt got answers of different score.
    """
    prompts: list[Prompt] = world.prompts("train", sampling.prompts, seed)
    answers = draw_answers(loaded, prompts, sampling, seed, use_bf16(bf16), update)
    tokens = sum(len(answer.token_ids) for own in answers for answer in own)
    scored = score_answers(world, prompts, [[answer.text for answer in own] for own in answers])
    plan = None
    score: Score = by_reward if kind == "helpful" else by_cost
    if aim is not None:
        costs, rewards = ([[a[i] for a in own] for own in scored] for i in (2, 1))
        plan = plan_tail(costs, aim, rewards)  # type: ignore[arg-type]
        score = plan.score
    safety: dict[str, int] = {}
    n = sampling.pairs_per_prompt
    if rule is not None:
        where = f"world {world.name!r}"
        found, safety = sampled_safe_pairs(prompts, scored, rule, where, pairs_per_prompt=n)
    elif rows == "groups":
        found = group_rows(prompts, scored, score, anchors=anchors, seed=seed)
    else:
        found = pair_rows(prompts, scored, score, pairs_per_prompt=n, anchors=anchors, seed=seed)
    flat: list[Scored] = [answer for own in scored for answer in own]
    if not found.rows and plan is not None:
        raise InputError(f"world {world.name!r}: {nothing_charged(plan)}")
    if not found.rows:
        raise InputError(
            f"world {world.name!r}: no {kind} pairs from {len(flat)} answers to {len(prompts)} "
            "prompts, because all answers to a prompt score alike. Raise sampling.prompts, "
            "sampling.answers_per_prompt or sampling.temperatures."
        )
    counts: dict[str, Any] = {
        "prompts": len(prompts),
        "tokens": tokens,
        rows: len(found.rows),
        "anchors": found.anchors,
        "left_out_alike": found.alike,
        "empty_answers": found.empty,
        **safety,
        **averages(flat),
    }
    return found.rows, counts, plan


def averages(answers: Sequence[Scored]) -> dict[str, Any]:
    """How many answers there are, their mean reward and cost, and their unsafe rate."""
    n = len(answers)
    return {
        "answers": n,
        "mean_reward": sum(answer.reward for answer in answers) / n,
        "mean_cost": sum(answer.cost for answer in answers) / n,
        "unsafe_rate": sum(answer.cost > 0 for answer in answers) / n,
    }


def draw_answers(
    loaded: LoadedModel,
    prompts: list[Prompt],
    sampling: SamplingConfig,
    seed: int,
    bf16: bool,
    update: Update | None,
) -> list[list[Answer]]:
    """Answers to each prompt, evenly over the temperatures."""
    model = for_inference(loaded, bf16)
    total = sampling.prompts * sampling.answers_per_prompt
    answers: list[list[Answer]] = [[] for _ in prompts]
    for i, temperature in enumerate(sampling.temperatures):
        done = total * i // len(sampling.temperatures)
        more = BACKENDS[sampling.backend](
            model,
            loaded.tokenizer,
            prompts,
            answers_per_prompt=sampling.answers_per_prompt // len(sampling.temperatures),
            temperature=temperature,
            top_p=sampling.top_p,
            max_new_tokens=sampling.max_new_tokens,
            batch_size=sampling.batch_size,
            seed=seed + i,
            progress=None if update is None else _offset(update, done, total),
        )
        for own, new in zip(answers, more, strict=True):
            own += new
    return answers


def _offset(update: Update, done: int, total: int) -> Callable[[int, int], None]:
    return lambda n, _: update(done + n, total, "")
