"""The job's last stages: each model and dial point measured, then compared and reported."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from riskalign import __version__
from riskalign.evaluation import (
    METRICS,
    TAIL_LEVELS,
    Counts,
    Interval,
    attempts_of,
    choose_examples,
    corrected_rates,
    counts_of,
    cvar_bounds,
    get_metrics,
    paired_differences,
    parse_counts,
    summarize,
    write_report,
    write_results,
)
from riskalign.files.cache import file_sha256
from riskalign.pipeline import machine
from riskalign.pipeline.job import InMemory, Job, ModelOnDisk
from riskalign.pipeline.judged import JudgedWorld
from riskalign.pipeline.launched import in_workers, measure_launched
from riskalign.pipeline.ledger import Outcome, now, resolve
from riskalign.pipeline.measure import Scored, read_scored, write_scored
from riskalign.pipeline.methods import get_method, has_rows
from riskalign.pipeline.parts import Asked, in_order, measured
from riskalign.pipeline.progress import Update
from riskalign.pipeline.settings import EvaluationConfig
from riskalign.pipeline.steps import Trained
from riskalign.risk import get_risk
from riskalign.scorers import read_card
from riskalign.worlds import Prompt, World

Models = Mapping[str, ModelOnDisk]

# Settings that act on the comparison, not on what is sampled.
_LATER = (
    *("prompts", "dial", "dial_prompts", "n_boot", "confidence", "examples", "metrics"),
    *("sensitivity", "specificity", "vllm"),
)


class Asker:
    """A job's models, asked for scored answers, each time as a stage of the job."""

    def __init__(self, job: Job, models: Models) -> None:
        self._job, self._models = job, models
        self._loaded = InMemory(models, job.bf16, always="start")

    def __call__(
        self,
        place: str,
        name: str,
        prompts: Sequence[Prompt],
        how: EvaluationConfig,
        seed: int,
        *,
        w: float | None = None,
        merged: bool = False,
    ) -> Path:
        """The file `place` in the job's folder with one model's answers.

        With `w` it is the model at `w` between the one named and `final`: that is the dial, or
        where `merged` the average of the weights.
        """
        job, models, world = self._job, self._models, self._job.world
        assert world is not None
        path = job.folder / f"{place}.jsonl"
        inputs: dict[str, Any] = {
            "model": models[name].weights,
            "dial": None if w is None else [models["final"].weights, w],
            "merged": merged,
            "start": models["start"].weights,
            "prompts": len(prompts),
            "world": job.world_identity(),
            "evaluation": {k: v for k, v in vars(how).items() if k not in _LATER},
            "bf16": job.bf16,
            "seed": seed,
        }

        asked = Asked(name, how, seed, w, merged)

        def work(key: str, update: Update) -> Outcome:
            if in_workers(job, how.backend):
                found = measure_launched(job, models, asked, prompts, update)
            else:
                parts = measured(asked, self._loaded, world, prompts, update)
                found = in_order(parts, len(prompts))
            write_scored(path, [answer for own in found for answer in own])
            return {"files": [path]}

        stage = place.replace("evaluation/", "evaluate-").replace("calibration/", "calibrate-")
        job.stage(stage, inputs, work, code=[get_risk(how.risk).name])
        return path


def evaluate(
    job: Job,
    models: Models,
    certified: str | None = None,
    baked: str | None = None,
    *,
    safer: Models = MappingProxyType({}),
) -> tuple[dict[str, Path], dict[float, Path]]:
    """Scored answers of each model and merge, and of each point of the dial up to `final`.

    Among the models are the setting `certified`, a point of the dial or one of the `safer` models,
    and the average of weights `baked`, where they are none of the two models themselves.
    """
    evaluation = job.config.evaluation
    assert evaluation is not None
    seed = job.seed("evaluate")
    ask, config = Asker(job, {**models, **safer}), job.config

    def answers(
        stage: str, name: str, n: int, w: float | None = None, merged: bool = False
    ) -> Path:
        prompts = job.eval_prompts[:n]
        return ask(f"evaluation/{stage}", name, prompts, evaluation, seed, w=w, merged=merged)

    n = len(job.eval_prompts)
    scored = {name: answers(name, name, n) for name in models}
    for w in job.config.merges:
        scored[f"merge-{w:g}"] = answers(f"merge-{w:g}", "step1", n, w, merged=True)
    if certified is not None and certified not in models:
        at = dict(config.budget_settings())[certified]
        scored["certified"] = answers("certified", certified if at is None else "step1", n, at)
    if baked is not None and baked not in models:
        at = dict(config.budget_settings(baked=True))[baked]
        scored["baked"] = answers("baked", "step1", n, at, merged=True)
    dial: dict[float, Path] = {}
    if {"step1", "final"} <= models.keys() and evaluation.dial_prompts:
        ends = {0.0: scored["step1"], 1.0: scored["final"]}
        few = min(n, evaluation.dial_prompts)
        for w in dict.fromkeys(evaluation.dial):
            dial[w] = ends[w] if w in ends else answers(f"dial-{w:g}", "step1", few, w)
    return scored, dial


def report(
    job: Job,
    trained: Trained,
    scored: Mapping[str, Path],
    dial: Mapping[float, Path],
    certificate: Mapping[str, Any] | None = None,
) -> tuple[Path, Path]:
    """Write `results.json` and, from it, `report.html`; their paths."""
    evaluation = job.config.evaluation
    assert evaluation is not None
    results, html = job.folder / "results.json", job.folder / "report.html"
    seed = job.seed("evaluate")
    about = {
        "title": job.title,
        "method": job.method,
        "settings": resolve(job.config),
        "training": trained.logs,
        "scorers": {name: each for name, each in job.scorers.items() if "accuracy" in each},
        "held_out": trained.held_out,
        "notes": job.notes,
        **({} if certificate is None else {"certificate": certificate}),
    }
    inputs = {
        **about,
        "command": job.command,
        "scored": {name: file_sha256(path) for name, path in scored.items()},
        "dial": {str(w): file_sha256(path) for w, path in dial.items()},
        "models": {name: model.weights for name, model in trained.models.items()},
        "world": job.world_identity(),
        "max_cost": job.max_cost,
        "seed": seed,
    }

    def work(key: str, update: Update) -> Outcome:
        few = {prompt.id for prompt in job.eval_prompts[: evaluation.dial_prompts]}
        points = {
            w: [answer for answer in read_scored(path) if answer.prompt_id in few]
            for w, path in dial.items()
        }
        whole = {name: read_scored(path) for name, path in scored.items()}
        preferences = job.data.preferences
        panels = {
            name: get_method(kind).panels
            for name, kind in job.config.steps()
            if not has_rows(kind) and name in trained.logs
        }
        compared = compare(job.eval_prompts, whole, points, evaluation, seed, job.max_cost)
        content = {
            "schema": 1,
            "created": now(),
            "riskalign_version": __version__,
            "world": job.config.world if preferences is None else preferences.source,
            "model": job.config.model,
            **compared,
            **corrected(evaluation, job.world, compared["models"]),
            **about,
            **({"panels": panels} if panels else {}),
            "reproduce": {
                "command": job.command,
                "seed": job.config.seed,
                "versions": machine.versions(),
                "commit": machine.commit(),
            },
            "seconds": {name: outcome["seconds"] for name, outcome in job.stages.items()},
        }
        write_results(results, content)
        write_report(results, html)
        return {"files": [results, html]}

    job.stage("report", inputs, work, code=evaluation.metrics)
    return results, html


def corrected(
    evaluation: EvaluationConfig,
    world: World | None,
    models: Mapping[str, Mapping[str, Interval]],
) -> dict[str, Any]:
    """The field `corrected` of results.json, where it is known how often what sets costs errs."""
    if evaluation.sensitivity is not None and evaluation.specificity is not None:
        said = (evaluation.sensitivity, evaluation.specificity)
        labels = "given as evaluation.sensitivity and evaluation.specificity"
        counts: list[Counts] = [parse_counts(each) for each in said]
    elif isinstance(world, JudgedWorld):
        card = read_card(world.folders["cost"])
        labels, counts = card.judged_on, counts_of(card.verdicts)
    else:
        return {}
    if not counts:
        return {}
    found = corrected_rates(models, counts, evaluation.confidence)
    return {"corrected": {**found, "labels": labels}}


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
    options: dict[str, Any] = {
        "n_boot": evaluation.n_boot,
        "seed": seed,
        "confidence": evaluation.confidence,
        "severities": [a.cost for own in scored.values() for a in own if a.cost > 0],
        "max_cost": max_cost,
    }
    own_metrics = get_metrics(evaluation.metrics)
    options["metrics"] = {**METRICS, **own_metrics}
    names = list(scored)
    return {
        "n_prompts": len(prompts),
        "answers_per_prompt": evaluation.answers_per_prompt,
        "confidence": evaluation.confidence,
        "models": {name: summarize(answers, **options) for name, answers in scored.items()},
        **({"metrics": [metric.words() for metric in own_metrics.values()]} if own_metrics else {}),
        "differences": {
            f"{later}_minus_{earlier}": paired_differences(
                scored[earlier], scored[later], **options
            )
            for i, later in enumerate(names)
            for earlier in names[:i]
        },
        "max_cost": max_cost,
        "bounds": {
            name: cvar_bounds(answers, TAIL_LEVELS, max_cost, evaluation.confidence)
            for name, answers in scored.items()
            if max_cost is not None
        },
        "attempts": {
            name: attempts_of(answers, evaluation.confidence) for name, answers in scored.items()
        },
        "dial": [
            {
                "w": w,
                "n_prompts": len({answer.prompt_id for answer in answers}),
                "metrics": summarize(answers, **options),
            }
            for w, answers in sorted(dial.items())
        ],
        **{
            f"{name}s": {
                model: sorted((getattr(answer, name) for answer in answers), reverse=True)
                for model, answers in scored.items()
            }
            for name in ("cost", "reward")
        },
        "examples": choose_examples(prompts, scored, evaluation.examples),
    }
