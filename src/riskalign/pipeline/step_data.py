"""A step's rows: given ones, or made of answers sampled from the model that it starts from."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from datasets import Dataset

from riskalign.data import Tokenized, load_groups, load_pairs
from riskalign.errors import InputError, LimitKept
from riskalign.files.atomic import write_json_lines
from riskalign.models import LoadedModel
from riskalign.pipeline.job import Job, ModelOnDisk
from riskalign.pipeline.launched import draw_launched, in_workers
from riskalign.pipeline.ledger import Outcome, rows_hash
from riskalign.pipeline.parts import Drawn, drawn, in_order
from riskalign.pipeline.progress import Update
from riskalign.pipeline.settings import Kind, SamplingConfig, StepConfig
from riskalign.pipeline.tail import (
    TailAim,
    TailPlan,
    charged_rows,
    nothing_charged,
    plan_tail,
    sampled_safe_pairs,
    tail_words,
)
from riskalign.risk import get_risk
from riskalign.worlds import Prompt, World, pairs


@dataclass(frozen=True)
class StepData:
    """A step's rows, their hash, the temperature that it trains at, and their tokens if known."""

    rows: Dataset
    sha256: str
    beta: float
    tokenized: Tokenized | None = None


def step_rows(
    job: Job, name: str, kind: Kind, current: ModelOnDisk, aim: TailAim | None
) -> StepData | None:
    """The step's rows, given or sampled from the model that the step starts from.

    With an `aim` for whole answers their scores are minus what its risk charges the costs; None
    where the sampled answers keep its limit already, so that there is nothing to learn.
    """
    if kind in job.data.given:
        return _given_rows(job, name, kind, aim)
    return _sampled_rows(job, name, kind, current, aim)


def _given_rows(job: Job, name: str, kind: Kind, aim: TailAim | None) -> StepData:
    rows, step, beta = job.data.given[kind], job.config.step(kind), job.config.step_beta(kind)
    preferences = job.data.preferences
    about: dict[str, Any] = {"source": step.data, "pairs": len(rows)}
    if step.data is None and preferences is not None:
        about |= {"source": preferences.source, "counts": dict(preferences.counts)}
    if step.safety_rule() is not None:
        about |= job.data.safety
    if aim is not None:
        seed, before = job.seed(f"pairs-{name}"), len(rows)
        rows, plan = charged_rows(rows, aim, about["source"], anchors=step.anchors, seed=seed)
        beta = plan.summary["beta"]
        about |= {"pairs": len(rows), "left_out_alike": before - len(rows), "tail": plan.summary}
        job.note(tail_words(name, plan.summary, given=True))
    sha256 = rows_hash(rows)
    job.manifest.note("data", name, {**about, "sha256": sha256})
    # Rows that are charged are others than those that were tokenized before the first step.
    tokenized = job.tokenized.get(f"{kind}.data") if aim is None else None
    return StepData(rows, sha256, beta, tokenized)


def _sampled_rows(
    job: Job, name: str, kind: Kind, current: ModelOnDisk, aim: TailAim | None
) -> StepData | None:
    world = job.world if job.labelling is None else job.labelling
    assert world is not None
    stage, path = f"pairs-{name}", job.folder / "pairs" / f"{name}.jsonl"
    seed, sampling, step = job.seed(stage), job.config.step_sampling(kind), job.config.step(kind)
    inputs = {
        "model": current.weights,
        "world": job.world_identity() if job.labelling is None else job.labelling.identity(),
        "kind": kind,
        "sampling": {k: v for k, v in dataclasses.asdict(sampling).items() if k != "vllm"},
        "bf16": job.bf16,
        "seed": seed,
        "rows": step.rows,
        "anchors": step.anchors,
    }
    if aim is not None:
        inputs["aim"] = dataclasses.asdict(aim)
    if (rule := step.safety_rule()) is not None:
        inputs["rule"] = dataclasses.asdict(rule)
    made: list[dict[str, Any]] = []

    def work(key: str, update: Update) -> Outcome:
        prompts = world.prompts("train", sampling.prompts, seed)
        if in_workers(job, sampling.backend):
            answers = draw_launched(job, current, prompts, sampling, seed, update)
        else:
            loaded = current.load()
            found = drawn(world, loaded, prompts, sampling, update, seed=seed, bf16=job.bf16)
            answers = in_order(found, len(prompts))
        try:
            rows, counts, plan = rows_of(world, prompts, answers, kind, sampling, step, seed, aim)
        except LimitKept as kept:
            return {"kept": str(kept), "files": []}
        write_json_lines(path, rows)
        made.extend(rows)
        tail = {} if plan is None else {"tail": plan.summary}
        return {"counts": counts, "files": [path], **tail}

    code = [] if aim is None else [get_risk(aim.risk).name]
    outcome = job.stage(stage, inputs, work, code=code)
    if "kept" in outcome:
        job.note(f"Step {name}: {outcome['kept']}. The model passes on as it is.")
        return None
    sha256 = outcome["files"][f"pairs/{path.name}"]
    about = {"source": str(path), "sha256": sha256, **outcome["counts"]}
    beta = job.config.step_beta(kind)
    if "tail" in outcome:
        about["tail"], beta = outcome["tail"], outcome["tail"]["beta"]
        job.note(tail_words(name, outcome["tail"]))
    job.manifest.note("data", name, about)
    load = load_groups if step.rows == "groups" else load_pairs
    return StepData(load(made or str(path)), sha256, beta)


class Sampled(NamedTuple):
    """Sampled rows, in TRL's conversational format with scores, and what they were made of.

    `counts` has numbers of prompts, answers, their tokens and rows, the answers' mean reward and
    cost and their unsafe rate; `plan` says what costs are charged for the risk of whole answers.
    """

    rows: list[dict[str, Any]]
    counts: dict[str, float]
    plan: TailPlan | None


def sample_rows(
    world: World,
    loaded: LoadedModel,
    kind: Kind,
    sampling: SamplingConfig,
    step: StepConfig,
    *,
    seed: int,
    bf16: bool,
    aim: TailAim | None = None,
    update: Update | None = None,
) -> Sampled:
    """Rows for a step from the model's own answers to the world's training prompts.

    There is a plan where an `aim` is given.

    Raises `InputError` when no prompt got answers of different score.
    """
    prompts, made = draw_answers(world, loaded, sampling, seed=seed, bf16=bf16, update=update)
    return rows_of(world, prompts, made, kind, sampling, step, seed, aim)


def rows_of(
    world: World,
    prompts: Sequence[Prompt],
    made: Sequence[Drawn],
    kind: Kind,
    sampling: SamplingConfig,
    step: StepConfig,
    seed: int,
    aim: TailAim | None,
) -> Sampled:
    """As `sample_rows`, of answers that are there."""
    scored, tokens = [each.answers for each in made], sum(each.tokens for each in made)
    plan = None
    score: pairs.Score = pairs.by_reward if kind == "helpful" else pairs.by_cost
    if aim is not None:
        costs = [[answer.cost for answer in of_prompt] for of_prompt in scored]
        rewards = [[answer.reward for answer in of_prompt] for of_prompt in scored]
        plan = plan_tail(costs, aim, rewards)
        score = plan.score
    safety: dict[str, int] = {}
    where, n = f"world {world.name!r}", sampling.pairs_per_prompt
    if (rule := step.safety_rule()) is not None:
        found, safety = sampled_safe_pairs(prompts, scored, rule, where, pairs_per_prompt=n)
    elif step.rows == "groups":
        found = pairs.group_rows(prompts, scored, score, anchors=step.anchors, seed=seed)
    else:
        found = pairs.pair_rows(
            prompts, scored, score, pairs_per_prompt=n, anchors=step.anchors, seed=seed
        )
    averaged = averages(scored)
    if not found.rows and plan is not None:
        raise InputError(f"{where}: {nothing_charged(plan.summary)}")
    if not found.rows:
        raise InputError(
            f"{where}: no {kind} pairs from {averaged['answers']} answers to {len(prompts)} "
            "prompts, because all answers to a prompt score alike. Raise sampling.prompts, "
            "sampling.answers_per_prompt or sampling.temperatures."
        )
    counts = {
        "prompts": len(prompts),
        "tokens": tokens,
        step.rows: len(found.rows),
        "anchors": found.anchors,
        "left_out_alike": found.alike,
        "empty_answers": found.empty,
        **safety,
        **averaged,
    }
    return Sampled(found.rows, counts, plan)


def averages(scored: Sequence[Sequence[pairs.Scored]]) -> dict[str, float]:
    """How many answers there are, their mean reward and cost, and their unsafe rate."""
    answers = [answer for own in scored for answer in own]
    n = len(answers)
    return {
        "answers": n,
        "mean_reward": sum(answer.reward for answer in answers) / n,
        "mean_cost": sum(answer.cost for answer in answers) / n,
        "unsafe_rate": sum(answer.cost > 0 for answer in answers) / n,
    }


def draw_answers(
    world: World,
    loaded: LoadedModel,
    sampling: SamplingConfig,
    *,
    seed: int,
    bf16: bool,
    update: Update | None,
) -> tuple[list[Prompt], list[Drawn]]:
    """Training prompts, and the answers to each."""
    prompts, tell = world.prompts("train", sampling.prompts, seed), update or (lambda *_: None)
    answered = drawn(world, loaded, prompts, sampling, tell, seed=seed, bf16=bf16)
    return prompts, in_order(answered, len(prompts))
