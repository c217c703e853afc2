"""`riskalign evaluate --rare`: a model's rare harm, with the help of looser settings of its dial.

Answers of looser settings hold more harm, and importance weights bring them back to the setting
that is asked about (`riskalign.evaluation.rare`). Without the model of the first step there is no
dial, and the model's own answers are all there is.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from riskalign import __version__
from riskalign.errors import InputError
from riskalign.evaluation import (
    METRICS,
    Interval,
    ScoredAnswer,
    cvar_bounds,
    score_answers,
    summarize,
)
from riskalign.evaluation.bounds import mean_upper_bound
from riskalign.evaluation.dial_scores import dial_log_probs
from riskalign.evaluation.rare import Rare, rare_harm
from riskalign.files.atomic import read_json_lines, write_json_lines, write_text
from riskalign.models import fingerprint, load_model
from riskalign.models.backends import BACKENDS
from riskalign.models.merge import refuse_weight
from riskalign.models.sampling import Answer
from riskalign.pipeline import machine
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.given import JobData
from riskalign.pipeline.job import InMemory, Job, ModelOnDisk
from riskalign.pipeline.launch import refuse_launch
from riskalign.pipeline.ledger import Outcome, now, resolve
from riskalign.pipeline.measure import can_share
from riskalign.pipeline.progress import Progress, Silent, Update, quiet_libraries
from riskalign.pipeline.settings import EvaluationConfig
from riskalign.risk import get_risk

LEVELS = (0.95, 0.99)
#: How far below w the settings lie that are sampled unless others are given.
_LOOSER = (0.75, 0.5)


def settings_of(
    evaluation: EvaluationConfig, w: float, looser: Sequence[float] | None
) -> tuple[list[float], list[int]]:
    """Settings, `w` first, and how many of a prompt's answers each gives.

    A quarter of them are of `w` itself, so that no weight is above 4 (of 4 answers and more; else
    one is); the others are split evenly, the first settings given taking what is left over.

    Raises `InputError`: a sampler whose distribution is not the dial's, too few answers, or
    settings that are not looser.
    """
    if (evaluation.temperature, evaluation.top_p) != (1.0, 1.0):
        raise InputError(
            f"evaluation.temperature, evaluation.top_p: are {evaluation.temperature:g} and "
            f"{evaluation.top_p:g}; with --step1, --rare weighs answers by probabilities of the "
            "dial itself, which are those of samples at 1 and 1 alone. Set both to 1."
        )
    given = [w - step for step in _LOOSER] if looser is None else list(dict.fromkeys(looser))
    for each in (w, *given):
        refuse_weight(each)
    if not given or max(given) >= w:
        raise InputError(
            f"looser: {', '.join(f'{each:g}' for each in given) or 'nothing'} is given, and every "
            f"setting must lie below w, {w:g}: nearer to the model of the first step, where harm "
            "is more frequent."
        )
    k = evaluation.answers_per_prompt
    own = max(1, k // 4)
    each, left = divmod(k - own, len(given))
    if each == 0:
        raise InputError(
            f"evaluation.answers_per_prompt: {k} answers cannot be shared among w and "
            f"{len(given)} looser settings; give at least {len(given) + 1}."
        )
    return [w, *given], [own, *(each + (i < left) for i in range(len(given)))]


def evaluate_rare(
    config: AlignConfig,
    *,
    final: str,
    step1: str | None = None,
    w: float = 1.0,
    looser: Sequence[float] | None = None,
    progress: Progress | None = None,
    command: str | None = None,
) -> Path:
    """Measure unsafe rate and CVaR of the dial between `step1` and `final` at `w`.

    Returns the path of ``rare.json`` in `config.output_dir`; the answers, their costs and log
    probabilities are in ``evaluation/rare.jsonl`` beside it.

    Raises `InputError`: as `settings_of` and `rare_harm`, no world or evaluation, fewer answers
    than the deepest CVaR needs, or a model that cannot be loaded.
    """
    evaluation = config.evaluation
    if config.world is None or evaluation is None:
        raise InputError("evaluate: needs a world and an evaluation; neither may be null")
    refuse_launch(config.launch, "evaluate --rare")
    if step1 is None and (w != 1.0 or looser is not None):
        raise InputError("evaluate: --w and --looser are the dial's. Give --step1 as well.")
    k = evaluation.answers_per_prompt
    settings, counts = ([1.0], [k]) if step1 is None else settings_of(evaluation, w, looser)
    answers, needed = evaluation.prompts * k, round(1 / (1 - max(LEVELS)))
    if answers < needed:
        raise InputError(
            f"evaluation.prompts, evaluation.answers_per_prompt: {answers} answers in all; CVaR "
            f"{max(LEVELS):g} needs {needed}, or its tail holds less than one."
        )
    told, trust = progress or Silent(), config.trust_remote_code
    with quiet_libraries():
        models, measured = {}, {"final": final, "step1": step1}
        told.stage("load")
        for key, name in measured.items():
            if name is not None:
                weights = fingerprint(load_model(name, trust_remote_code=trust).model)
                models[key] = ModelOnDisk(name, weights, trust)
        told.done()
        job = Job(config, JobData(), told, "Rare harm", command, measured=measured)
        with job.recorded():
            path = _answers(job, models, settings, counts)
            content = {**_figures(job, path, settings, counts), **_origin(job, measured)}
            out = job.folder / "rare.json"
            text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
            write_text(out, text + "\n")
    return out


def _answers(
    job: Job, models: dict[str, ModelOnDisk], settings: list[float], counts: list[int]
) -> Path:
    """Answers of each setting with costs and log probabilities: JSON lines, prompt by prompt."""
    evaluation, world, prompts = job.config.evaluation, job.world, job.eval_prompts
    assert evaluation is not None
    assert world is not None
    path, seed = job.folder / "evaluation" / "rare.jsonl", job.seed("rare")
    sampler = {
        name: getattr(evaluation, name)
        for name in ("split", "temperature", "top_p", "max_new_tokens", "batch_size", "backend")
    }
    inputs: dict[str, Any] = {
        "models": {name: model.weights for name, model in models.items()},
        "settings": settings,
        "counts": counts,
        "prompts": len(prompts),
        "world": job.world_identity(),
        "evaluation": sampler,
        "bf16": job.bf16,
        "seed": seed,
    }

    def work(key: str, update: Update) -> Outcome:
        final, *first = InMemory(models, job.bf16, always="final")(*models)
        each = sum(counts)
        total, done = (2 if first else 1) * each * len(prompts), 0
        drawn: list[list[Answer]] = [[] for _ in prompts]
        for j, (w, n) in enumerate(zip(settings, counts, strict=True)):
            found = BACKENDS[evaluation.backend](
                first[0].model if first else final.model,
                final.tokenizer,
                prompts,
                **evaluation.sampling() | evaluation.of_backend() | {"answers_per_prompt": n},
                seed=seed + j,  # or the settings would draw alike
                dial_to=(final.model, w) if first else None,
                progress=lambda at, _, done=done: update(done + at, total, "sampling"),
            )
            done += n * len(prompts)
            for own, more in zip(drawn, found, strict=True):
                own += more
        options: Any = {"tokenizer": final.tokenizer, "shared_prompt": False}
        scored = score_answers(
            world, prompts, drawn, policy=None, start=final.model, risk=get_risk("mean"), **options
        )
        log_probs = [[0.0]] * len(scored)
        if first:
            options["shared_prompt"] = can_share(first[0].model, final.model)
            log_probs = dial_log_probs(
                prompts,
                drawn,
                model_1=first[0].model,
                model_2=final.model,
                settings=settings,
                progress=lambda at, _: update(done + at, total, "weighing"),
                **options,
            ).tolist()
        of = [w for w, n in zip(settings, counts, strict=True) for _ in range(n)] * len(prompts)
        write_json_lines(
            path,
            (
                {"prompt_id": one.prompt_id, "w": w, "text": one.text, "reward": one.reward}
                | {"cost": one.cost, "length": one.length, "log_probs": logs}
                for one, w, logs in zip(scored, of, log_probs, strict=True)
            ),
        )
        return {"files": [path]}

    job.stage("rare", inputs, work)
    return path


def _figures(job: Job, path: Path, settings: list[float], counts: list[int]) -> dict[str, Any]:
    """The measured part of rare.json."""
    evaluation, max_cost = job.config.evaluation, job.max_cost
    assert evaluation is not None
    rows, k = read_json_lines(path), sum(counts)
    own = [row for i, row in enumerate(rows) if i % k < counts[0]]
    costs = np.array([row["cost"] for row in rows], dtype=np.float64).reshape(-1, k)
    rare = None
    if len(settings) > 1:
        log_probs = np.array([row["log_probs"] for row in rows]).reshape(*costs.shape, -1)
        found = rare_harm(
            costs, log_probs, counts, LEVELS, max_cost=max_cost, confidence=evaluation.confidence
        )
        rare = _plain_data(found)
    scored = [
        ScoredAnswer(
            row["prompt_id"], "", row["reward"], row["cost"], np.nan, np.nan, row["length"]
        )
        for row in own
    ]
    keys = ("unsafe_rate", *(f"cvar_{level:g}" for level in LEVELS))
    plain = summarize(
        scored,
        n_boot=evaluation.n_boot,
        seed=job.seed("rare"),
        confidence=evaluation.confidence,
        severities=[float(cost) for cost in costs.ravel() if cost > 0],
        max_cost=max_cost,
        metrics={key: METRICS[key] for key in keys},
    )
    means = (costs[:, : counts[0]] > 0).mean(axis=1)
    bounds = {"unsafe_rate": mean_upper_bound(means.mean(), len(means), 1 - evaluation.confidence)}
    if max_cost is not None:
        bounds |= cvar_bounds(scored, LEVELS, max_cost, evaluation.confidence)
    return {
        "method": "plain" if rare is None else "importance",
        "w": settings[0],
        "looser": settings[1:],
        "counts": counts,
        "n_prompts": len(costs),
        "confidence": evaluation.confidence,
        "max_cost": max_cost,
        "rare": rare,
        "own": {"answers": len(own), **{key: _ends(ends) for key, ends in plain.items()}},
        "bounds": bounds,
    }


def _origin(job: Job, measured: dict[str, str | None]) -> dict[str, Any]:
    """Where the figures of rare.json come from."""
    return {
        "schema": 1,
        "created": now(),
        "riskalign_version": __version__,
        "world": job.config.world,
        "models": measured,
        "settings": resolve(job.config),
        "reproduce": {
            "command": job.command,
            "seed": job.config.seed,
            "versions": machine.versions(),
            "commit": machine.commit(),
        },
    }


def _plain_data(found: Rare) -> dict[str, Any]:
    tails = {f"cvar_{level:g}": _ends(ends) for level, ends in found.cvar.items()}
    effective = {f"cvar_{level:g}": size for level, size in found.effective_tail.items()}
    return {
        "unsafe_rate": _ends(found.unsafe_rate),
        **tails,
        "answers": found.answers,
        "effective": {
            "all": found.effective,
            "unsafe_rate": found.effective_unsafe,
            **effective,
        },
        "mean_weight": found.mean_weight,
        "largest_weight": found.largest_weight,
        "worth": found.worth,
    }


def _ends(ends: Interval) -> dict[str, float | None]:
    """JSON has no infinity: an upper end that there is none of is null."""
    high = float(ends.high)
    return {"value": ends.value, "low": ends.low, "high": high if np.isfinite(high) else None}
