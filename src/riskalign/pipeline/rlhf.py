"""The step `ppo`: Safe RLHF's scorers, where they are wanted, and PPO-Lagrangian."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset

from riskalign.data.fields import Text
from riskalign.models import fingerprint, load_model, save_model
from riskalign.pipeline import machine
from riskalign.pipeline.job import Job, ModelOnDisk
from riskalign.pipeline.learnt import note_prompts
from riskalign.pipeline.ledger import Outcome
from riskalign.pipeline.progress import Update
from riskalign.pipeline.settings import Kind
from riskalign.pipeline.steps import lora_config, own_checkpoints, write_log
from riskalign.safe_rlhf import Scorer, train_ppo_lagrangian
from riskalign.scorers import ScalarModel, load_scalar_model, save_scalar_model, train_scorer

#: A step's pairs, given or sampled from the model that it starts from, and their hash.
Pairs = Callable[[str, Kind, ModelOnDisk], tuple[Dataset, str]]

# Iterations between two checkpoints: seconds of writing against minutes of work.
_SAVE_EVERY = 5
_HELD_OUT = 0.2


def ppo_step(
    job: Job, name: str, current: ModelOnDisk, pairs_of: Pairs
) -> tuple[ModelOnDisk, list[dict[str, Any]]]:
    """Train from `current`, which is also the reference; the result and its log.

    Reward and cost are the world's own, or with `scorers` models trained on helpful and safe pairs.
    Leaves `model` (plain weights), `log.json` and, where trained, `scorers/reward` and
    `scorers/cost` in the step's folder.
    """
    config, folder = job.config, job.folder / name
    world = job.world
    assert world is not None
    reward: Scorer = world.reward
    cost: Scorer = world.cost
    hashes: dict[str, Any] = {}
    learnt: list[Text] = []

    def own_pairs(of: Kind) -> tuple[Dataset, str]:
        pairs, digest = pairs_of(f"{name}-{of}", of, current)
        learnt.extend(pairs["prompt"])
        return pairs, digest

    if config.scorers is not None:
        reward, cost = (
            _scorer(job, name, kind, current, own_pairs, hashes) for kind in ("reward", "cost")
        )
    ptx = None
    if config.ppo.ptx_coef > 0:
        ptx, hashes["ptx"] = own_pairs("helpful")
    stage = f"train-{name}"
    seed = job.seed(stage)
    prompts = world.prompts("train", config.sampling.prompts, job.seed(f"prompts-{name}"))
    bf16 = machine.use_bf16(config.bf16)
    adapter = None if config.peft is None else lora_config(config.peft)
    inputs = {
        "model": current.weights,
        "world": job.world_identity(),
        "prompts": config.sampling.prompts,
        "settings": dataclasses.asdict(config.ppo),
        "peft": config.peft and dataclasses.asdict(config.peft),
        "bf16": bf16,
        "seed": seed,
        **hashes,
    }

    def work(key: str, update: Update) -> Outcome:
        checkpoints = own_checkpoints(folder / "checkpoints", key)
        loaded = current.load()
        result = train_ppo_lagrangian(
            loaded,
            prompts,
            reward,
            cost,
            config.ppo,
            peft_config=adapter,
            critic_peft_config=adapter,
            ptx_pairs=ptx,
            seed=seed,
            bf16=bf16,
            checkpoint=checkpoints / "ppo",
            save_steps=_SAVE_EVERY,
            update=update,
        )
        trained: Any = result.model
        if adapter is not None:
            trained = trained.merge_and_unload()
        save_model(trained, loaded.tokenizer, folder / "model")
        asked = [list(prompt.messages) for prompt in prompts]
        note_prompts(folder / "model", current.name, prompts=[*asked, *learnt])
        log = [
            {"step": entry["iteration"] + 1, "loss": entry["policy_loss"], **entry}
            for entry in result.log
        ]
        write_log(folder, log)
        again = load_model(folder / "model", trust_remote_code=current.trust_remote_code)
        return {
            "steps": result.learning_steps,
            "answers": result.sampled_answers,
            "tokens": result.sampled_tokens,
            "lambda": result.lambda_,
            "bf16": bf16,
            "reference": current.weights,
            "fingerprint": fingerprint(again.model),
            "files": [job.relative(folder / "log.json"), *job.ledger.files_in(folder / "model")],
        }

    outcome = job.stage(stage, inputs, work, folder / "checkpoints")
    about = {key: outcome[key] for key in ("reference", "fingerprint", "lambda")}
    job.manifest.note("models", name, about)
    trained = dataclasses.replace(
        current, name=str(folder / "model"), weights=outcome["fingerprint"]
    )
    return trained, job.log(folder)


def _scorer(
    job: Job,
    name: str,
    kind: Any,
    current: ModelOnDisk,
    own_pairs: Callable[[Kind], tuple[Dataset, str]],
    hashes: dict[str, Any],
) -> ScalarModel:
    """The reward or the cost model, trained on four fifths of its pairs and judged on the rest."""
    config, folder = job.config, job.folder / name / "scorers" / kind
    settings = config.scorers
    assert settings is not None
    of: Kind = "helpful" if kind == "reward" else "safe"
    pairs, hashes[kind] = own_pairs(of)
    stage = f"scorer-{name}-{kind}"
    seed, bf16 = job.seed(stage), machine.use_bf16(config.bf16)
    inputs = {
        "model": current.weights,
        "data": hashes[kind],
        "settings": dataclasses.asdict(settings),
        "peft": config.peft and dataclasses.asdict(config.peft),
        "bf16": bf16,
        "seed": seed,
    }

    def work(key: str, update: Update) -> Outcome:
        loaded = current.load()
        kept, held_out = split_by_prompt(pairs)
        result = train_scorer(
            kind,
            loaded.model,
            loaded.tokenizer,
            kept,
            settings,
            eval_pairs=held_out,
            peft_config=None if config.peft is None else lora_config(config.peft),
            seed=seed,
            bf16=bf16,
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
            "files": job.ledger.files_in(folder),
        }

    outcome = job.stage(stage, inputs, work)
    hashes[f"{kind} model"] = outcome["fingerprint"]
    about = {"pairs": outcome["pairs"], "held_out": outcome["held_out"], **outcome["evaluation"]}
    job.manifest.note("models", f"{name}-{kind}", about)
    return load_scalar_model(Path(folder))


def split_by_prompt(pairs: Dataset) -> tuple[Dataset, Dataset | None]:
    """All rows of the first prompts, and those of the last fifth; None where that is none."""
    prompts = list(dict.fromkeys(str(prompt) for prompt in pairs["prompt"]))
    last = set(prompts[len(prompts) - int(_HELD_OUT * len(prompts)) :])
    own = [str(prompt) in last for prompt in pairs["prompt"]]
    kept = pairs.select([i for i, out in enumerate(own) if not out])
    held_out = pairs.select([i for i, out in enumerate(own) if out])
    return kept, held_out if len(held_out) else None
