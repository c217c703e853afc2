"""The method `ppo`: Safe RLHF's scorers, where they are wanted, and PPO-Lagrangian."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from riskalign.data.fields import Text
from riskalign.evaluation.plots import PPO_PANELS
from riskalign.models import LoadedModel, fingerprint
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.judged import SCORED
from riskalign.pipeline.ledger import Outcome
from riskalign.pipeline.methods import Method, Panel
from riskalign.pipeline.progress import Update
from riskalign.pipeline.settings import Kind
from riskalign.pipeline.steps import Learnt, MethodStep, Result
from riskalign.safe_rlhf import PPOSettings, Scorer, train_ppo_lagrangian
from riskalign.scorers import Kind as ScorerKind
from riskalign.scorers import ScalarModel, load_scalar_model, save_scalar_model, train_scorer

# Iterations between two checkpoints: seconds of writing against minutes of work.
_SAVE_EVERY = 5
_HELD_OUT = 0.2


def run(step: MethodStep) -> Result:
    """Train by PPO on the world's own reward and cost, or with `scorers` on trained models'.

    Leaves `scorers/reward` and `scorers/cost` in the step's folder where they were trained.
    """
    config, world, settings = step.job.config, step.job.world, step.job.config.ppo
    assert world is not None
    reward: Scorer = world.reward
    cost: Scorer = world.cost
    hashes: dict[str, str] = {}
    learnt: list[Text] = []
    if config.scorers is not None:
        reward, cost = (_scorer(step, kind, hashes, learnt) for kind in SCORED)
    ptx = None
    if settings.ptx_coef > 0:
        ptx, hashes["ptx"] = step.pairs("helpful")
        learnt.extend(ptx["prompt"])
    n = config.sampling.prompts
    prompts = world.prompts("train", n, step.seed("prompts"))

    def loop(loaded: LoadedModel, checkpoints: Path, update: Update) -> Learnt:
        result = train_ppo_lagrangian(
            loaded,
            prompts,
            reward,
            cost,
            settings,
            peft_config=step.adapter,
            critic_peft_config=step.adapter,
            ptx_pairs=ptx,
            seed=step.seed(),
            bf16=step.job.bf16,
            checkpoint=checkpoints / "ppo",
            save_steps=_SAVE_EVERY,
            update=update,
        )
        log = [
            {"step": entry["iteration"] + 1, "loss": entry["policy_loss"], **entry}
            for entry in result.log
        ]
        about = {
            "steps": result.learning_steps,
            "answers": result.sampled_answers,
            "examples": result.sampled_answers * settings.num_ppo_epochs,
            "tokens": result.sampled_tokens,
            "lambda": result.lambda_,
        }
        asked = [list(prompt.messages) for prompt in prompts]
        return Learnt(result.model, log, about, [*asked, *learnt])

    return step.train({"prompts": n, **hashes}, loop, ["lambda"])


def _scorer(
    step: MethodStep, kind: ScorerKind, hashes: dict[str, str], learnt: list[Text]
) -> ScalarModel:
    """The reward or the cost model, trained on four fifths of its pairs and judged on the rest.

    Adds to the `hashes` of what the policy is made from, and to the prompts `learnt` from.
    """
    job, folder = step.job, step.folder / "scorers" / kind
    settings, peft, seed = job.config.scorers, job.config.peft, step.seed("scorer", f"-{kind}")
    assert settings is not None
    pairs, hashes[kind] = step.pairs(SCORED[kind])
    learnt.extend(pairs["prompt"])
    inputs = {
        "model": step.start.weights,
        "data": hashes[kind],
        "settings": dataclasses.asdict(settings),
        "peft": peft and dataclasses.asdict(peft),
        "bf16": step.job.bf16,
        "seed": seed,
    }

    def work(key: str, update: Update) -> Outcome:
        loaded = step.start.load()
        kept, held_out = split_by_prompt(pairs)
        result = train_scorer(
            kind,
            loaded.model,
            loaded.tokenizer,
            kept,
            settings,
            eval_pairs=held_out,
            peft_config=step.adapter,
            seed=seed,
            bf16=step.job.bf16,
            update=update,
        )
        save_scalar_model(result.model, folder)
        judged = ", ".join(f"{key} {value:.2f}" for key, value in result.evaluation.items())
        update(len(result.log), len(result.log), f"held out: {judged}")
        return {
            "evaluation": result.evaluation,
            "fingerprint": fingerprint(result.model),
            "pairs": result.counts.kept,
            "held_out": result.eval_counts.kept,
            "files": [folder],
        }

    outcome = job.stage(f"scorer-{step.name}-{kind}", inputs, work)
    hashes[f"{kind} model"] = outcome["fingerprint"]
    about = {"pairs": outcome["pairs"], "held_out": outcome["held_out"], **outcome["evaluation"]}
    job.note_scorer(f"{step.name}-{kind}", about)
    return load_scalar_model(folder)


def split_by_prompt(pairs: Dataset) -> tuple[Dataset, Dataset | None]:
    """All rows of the first prompts, and those of the last fifth; None where that is none."""
    prompts = list(dict.fromkeys(str(prompt) for prompt in pairs["prompt"]))
    last = set(prompts[len(prompts) - int(_HELD_OUT * len(prompts)) :])
    is_last = [str(prompt) in last for prompt in pairs["prompt"]]
    kept = pairs.select([i for i, out in enumerate(is_last) if not out])
    held_out = pairs.select([i for i, out in enumerate(is_last) if out])
    return kept, held_out if len(held_out) else None


def _problems(config: AlignConfig) -> Iterator[tuple[str, str]]:
    if config.world is None:
        yield "order", "has ppo, which answers a world's prompts, and there is no world"


def _pairs(config: AlignConfig) -> list[Kind]:
    if config.scorers is not None:
        return ["helpful", "safe"]
    return ["helpful"] if config.ppo.ptx_coef > 0 else []


def _disk(config: AlignConfig) -> tuple[int, int]:
    """Two scorers; two checkpoints of policy and critics, each with weights and two moments."""
    return 2 * (config.scorers is not None), 18 * (config.peft is None)


PPO = Method(
    title="PPO-Lagrangian",
    run=run,
    options=PPOSettings,
    pairs=_pairs,
    problems=_problems,
    disk=_disk,
    trees=("scorers/reward", "scorers/cost"),
    fields=("ppo", "scorers"),
    panels=tuple(
        Panel(title, note, {curve.key: curve.name for curve in curves})
        for title, note, curves in PPO_PANELS
    ),
)
