"""The job's last stages: each model and dial point measured, then compared and reported."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from riskalign import __version__
from riskalign.evaluation import write_report, write_results
from riskalign.files.cache import file_sha256
from riskalign.models import LoadedModel
from riskalign.models.merge import merge
from riskalign.pipeline import machine
from riskalign.pipeline.job import Job, ModelOnDisk
from riskalign.pipeline.ledger import Outcome
from riskalign.pipeline.manifest import now, resolve
from riskalign.pipeline.measure import compare, measure, read_scored, write_scored
from riskalign.pipeline.progress import Update
from riskalign.pipeline.steps import for_inference
from riskalign.plugin import outside
from riskalign.risk import get_risk

Models = dict[str, ModelOnDisk]
Training = dict[str, list[dict[str, Any]]]

# Settings that act on the comparison, not on what is sampled.
_LATER = ("prompts", "dial", "dial_prompts", "n_boot", "confidence", "examples", "metrics")


class _Loaded:
    """Models ready for inference, each loaded when it is first asked for."""

    def __init__(self, models: Models, bf16: bool) -> None:
        self._models = models
        self._bf16 = bf16
        self._kept: dict[str, tuple[LoadedModel, PreTrainedModel]] = {}

    def __getitem__(self, name: str) -> PreTrainedModel:
        if name not in self._kept:
            loaded = self._models[name].load()
            self._kept[name] = loaded, for_inference(loaded, self._bf16)
        return self._kept[name][1]

    def merged(self, name: str, w: float) -> PreTrainedModel:
        """The model whose weights lie at `w` between the named one's and the last's."""
        return merge(self[name], self["final"], w)

    def tokenizer(self, name: str) -> Any:
        return self._kept[name][0].tokenizer


def evaluate(job: Job, models: Models) -> tuple[dict[str, Path], dict[float, Path]]:
    """Scored answers of each model and merge, and of each point of the dial up to `final`."""
    evaluation = job.config.evaluation
    assert evaluation is not None
    loaded = _Loaded(models, machine.use_bf16(job.config.bf16))
    n = len(job.eval_prompts)
    scored = {name: _scored(job, models, loaded, name, name, n) for name in models}
    for w in job.config.merges:
        scored[f"merge-{w:g}"] = _scored(job, models, loaded, f"merge-{w:g}", "step1", n, w, True)
    dial: dict[float, Path] = {}
    if {"step1", "final"} <= models.keys() and evaluation.dial_prompts:
        few = min(n, evaluation.dial_prompts)
        ends = {0.0: scored["step1"], 1.0: scored["final"]}
        for w in dict.fromkeys(evaluation.dial):
            dial[w] = (
                ends[w]
                if w in ends
                else _scored(job, models, loaded, f"dial-{w:g}", "step1", few, w)
            )
    return scored, dial


def _scored(
    job: Job,
    models: Models,
    loaded: _Loaded,
    stage: str,
    name: str,
    n: int,
    w: float | None = None,
    merged: bool = False,
) -> Path:
    """Answers of one model to the first `n` prompts, or of one between it and `final`.

    At `w` it is the dial, or where `merged` the average of the weights.
    """
    evaluation, world = job.config.evaluation, job.world
    assert evaluation is not None
    assert world is not None
    path = job.folder / "evaluation" / f"{stage}.jsonl"
    seed = job.seed("evaluate")
    inputs: dict[str, Any] = {
        "model": models[name].weights,
        "dial": None if w is None else [models["final"].weights, w],
        "merged": merged,
        "start": models["start"].weights,
        "prompts": n,
        "world": job.world_identity(),
        "evaluation": {k: v for k, v in vars(evaluation).items() if k not in _LATER},
        "bf16": machine.use_bf16(job.config.bf16),
        "seed": seed,
    }
    if others := outside([get_risk(evaluation.risk).name]):
        inputs["outside"] = others

    def work(key: str, update: Update) -> Outcome:
        scored = measure(
            world,
            job.eval_prompts[:n],
            evaluation,
            policy=loaded.merged(name, w) if merged and w is not None else loaded[name],
            start=loaded["start"],
            tokenizer=loaded.tokenizer("start"),
            seed=seed,
            dial_to=None if w is None or merged else (loaded["final"], w),
            update=update,
        )
        write_scored(path, scored)
        return {"files": [job.relative(path)]}

    job.stage(f"evaluate-{stage}", inputs, work)
    return path


def report(
    job: Job,
    models: Models,
    scored: dict[str, Path],
    dial: dict[float, Path],
    training: Training,
    held_out: Mapping[str, Mapping[str, float]],
) -> tuple[Path, Path]:
    """Write `results.json` and, from it, `report.html`; their paths."""
    evaluation = job.config.evaluation
    assert evaluation is not None
    results, html = job.folder / "results.json", job.folder / "report.html"
    seed = job.seed("evaluate")
    scorers = {
        name: about for name, about in job.manifest.content["models"].items() if "accuracy" in about
    }
    inputs = {
        "title": job.title,
        "method": job.method,
        "command": job.command,
        "settings": resolve(job.config),
        "scored": {name: file_sha256(path) for name, path in scored.items()},
        "dial": {str(w): file_sha256(path) for w, path in dial.items()},
        "training": training,
        "scorers": scorers,
        "held_out": dict(held_out),
        "notes": job.notes,
        "models": {name: model.weights for name, model in models.items()},
        "world": job.world_identity(),
        "max_cost": job.max_cost,
        "seed": seed,
    }
    if others := outside(evaluation.metrics):
        inputs["outside"] = others

    def work(key: str, update: Update) -> Outcome:
        few = {prompt.id for prompt in job.eval_prompts[: evaluation.dial_prompts]}
        points = {
            w: [answer for answer in read_scored(path) if answer.prompt_id in few]
            for w, path in dial.items()
        }
        own = {name: read_scored(path) for name, path in scored.items()}
        stages = job.manifest.content["stages"]
        write_results(
            results,
            {
                "schema": 1,
                "created": now(),
                "riskalign_version": __version__,
                "title": job.title,
                "method": job.method,
                "world": job.config.world if job.preferences is None else job.preferences.source,
                "model": job.config.model,
                **compare(job.eval_prompts, own, points, evaluation, seed, job.max_cost),
                "training": training,
                "scorers": scorers,
                "held_out": held_out,
                "notes": job.notes,
                "settings": resolve(job.config),
                "reproduce": {
                    "command": job.command,
                    "seed": job.config.seed,
                    "versions": machine.versions(),
                    "commit": machine.commit(),
                },
                "seconds": {name: outcome["seconds"] for name, outcome in stages.items()},
            },
        )
        write_report(results, html)
        return {"files": [job.relative(results), job.relative(html)]}

    job.stage("report", inputs, work)
    return results, html
