"""A job's budget: the most helpful point of the dial that surely keeps its limits, or none."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from riskalign import __version__
from riskalign.errors import InputError
from riskalign.evaluation import (
    UNSAFE,
    Asked,
    Bounded,
    Limit,
    ScoredAnswer,
    Verdict,
    certify,
    read_costs,
)
from riskalign.files.atomic import write_text
from riskalign.files.cache import file_sha256
from riskalign.files.folder import check_out
from riskalign.models import fingerprint, load_model
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.evaluate import Asker
from riskalign.pipeline.job import Job, ModelOnDisk
from riskalign.pipeline.launch import refuse_launch
from riskalign.pipeline.ledger import Outcome, now, stage_seed
from riskalign.pipeline.machine import check_folder, for_inference, use_bf16
from riskalign.pipeline.measure import measure, read_scored
from riskalign.pipeline.progress import Progress, Silent, Update, quiet_libraries, updates
from riskalign.pipeline.settings import BudgetConfig, EvaluationConfig
from riskalign.worlds import Prompt, get_world, max_cost_of

Certificate = dict[str, Any]


#: The files in a job's folder: of the dial, and of the averages of weights where asked for.
CERTIFICATE, BAKED = "certificate.json", "certificate-baked.json"
_ALONE = (
    f"{CERTIFICATE}, of the dial, and {BAKED}, of averages of weights, each hold with this "
    "confidence on their own, not both together."
)


def certify_job(
    job: Job, models: Mapping[str, ModelOnDisk], *, baked: bool = False
) -> Certificate | None:
    """Test the dial of a job's models, write `certificate.json`; None where it has no budget.

    With `baked` test their averages and write `certificate-baked.json`, where the budget asks for
    it. Answers are sampled as the evaluation's, of points as long as all before them passed.
    """
    budget, evaluation = job.config.budget, job.config.evaluation
    if budget is None or evaluation is None or (baked and not budget.baked):
        return None
    points = job.config.budget_settings(baked=baked)
    if "step1" not in models:
        points = [(name, w) for name, w in points if w in (1, None)]
    bounded, how = job.bounded(budget), _how(evaluation, budget)
    ask, seed, files = Asker(job, models), job.seed("calibrate"), {}

    def answers(name: str, w: float | None) -> list[Asked]:
        source, at = (name, None) if name in models else ("step1", w)
        place, merged = f"calibration/{name}", baked and at is not None
        files[name] = ask(place, source, job.calibration, how, seed, w=at, merged=merged)
        return by_prompt(job.calibration, read_scored(files[name]))

    tried = [(name, lambda name=name, w=w: answers(name, w)) for name, w in points]
    verdict = certify(tried, budget.all_limits(), bounded)
    content = as_certificate(verdict, budget.all_limits(), bounded) | {
        "settings": dict(points),
        "certified_w": None if verdict.chosen is None else dict(points)[verdict.chosen],
        "models": {
            key: _about(models[key])
            for key in ("step1", "final", *(name for name, w in points if w is None))
            if key in models
        },
        "prompts": len(job.calibration),
        "shared_with_evaluation": _shared(job.calibration, job.eval_prompts),
        "sampling": how.sampling(),
        "backend": how.backend,
        "bf16": job.bf16,
        "seed": seed,
        "world": job.config.world,
        **({"note": _ALONE} if budget.baked else {}),
    }
    path = job.folder / (BAKED if baked else CERTIFICATE)
    inputs = {"content": content, "scored": {n: file_sha256(p) for n, p in files.items()}}

    def work(key: str, update: Update) -> Outcome:
        write_certificate(path, content)
        return {"files": [path]}

    job.stage(path.stem, inputs, work)
    return content


def _about(model: ModelOnDisk) -> dict[str, str]:
    """What `riskalign export` finds a model by, and knows it again by."""
    template = {} if model.chat_template is None else {"chat_template": model.chat_template}
    return {"name": model.name, "fingerprint": model.weights, **template}


def _how(evaluation: EvaluationConfig, budget: BudgetConfig) -> EvaluationConfig:
    """As the evaluation asks, the budget's number of answers, without distances to the start."""
    each = budget.answers_per_prompt
    return dataclasses.replace(evaluation, answers_per_prompt=each, distance_prompts=0)


def _shared(calibration: Sequence[Prompt], evaluated: Sequence[Prompt]) -> int:
    """Calibration prompts whose text the evaluation happens to ask as well."""
    asked = {str(prompt.messages) for prompt in evaluated}
    return sum(str(prompt.messages) in asked for prompt in calibration)


def by_prompt(prompts: Sequence[Prompt], scored: Sequence[ScoredAnswer]) -> list[Asked]:
    """What answers to prompts cost; a prompt's category is its fact of that name."""
    costs: dict[str, list[float]] = {prompt.id: [] for prompt in prompts}
    for answer in scored:
        costs[answer.prompt_id].append(answer.cost)
    found = []
    for prompt in prompts:
        category = prompt.facts.get("category")
        found.append(Asked(costs[prompt.id], None if category is None else str(category)))
    return found


def as_certificate(verdict: Verdict, limits: Sequence[Limit], bounded: Bounded) -> Certificate:
    """What was tested how, on what assumptions, and what came of it, of JSON's types."""
    bounds = [f"costs are at most {bounded.max_cost:g}"] if bounded.max_cost is not None else []
    rates_only = all(limit.risk == UNSAFE for limit in limits)
    errs = "the costs are what is to be limited"
    if bounded.sensitivity is not None:
        errs = "what sets the costs errs as on its labels, for which unsafe rates are corrected"
    return {
        "schema": 1,
        "riskalign_version": __version__,
        "certified": verdict.chosen,
        "limits": [dataclasses.asdict(limit) for limit in limits],
        "confidence": bounded.confidence,
        "bound": "exact, or betting" if rates_only else bounded.method,
        "max_cost": bounded.max_cost,
        "sensitivity": bounded.sensitivity,
        "specificity": bounded.specificity,
        "assumptions": [
            "prompts are independent draws, from where the model will be asked",
            "they were used for nothing else",
            errs,
            "answers are sampled as they will be",
            *([] if rates_only else bounds),
        ],
        "tests": [dataclasses.asdict(test) for test in verdict.tests],
        "prompts_needed": verdict.prompts_needed,
    }


def write_certificate(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file by a certificate, with the time, in one step."""
    text = json.dumps({**content, "created": now()}, indent=1, ensure_ascii=False)
    write_text(path, text + "\n")


def certify_files(budget: BudgetConfig, paths: Sequence[Path]) -> Certificate:
    """Of settings, the safest first, each a file of scored answers (`read_costs`).

    Raises `InputError` for files that cannot be read, or no largest cost where one is needed.
    """
    if len(set(paths)) < len(paths):
        raise InputError("scores: one file is given twice")
    bounded = budget.bounded(None)
    tried = [(str(path), lambda path=path: read_costs(path)) for path in paths]
    verdict = certify(tried, budget.all_limits(), bounded)
    content = as_certificate(verdict, budget.all_limits(), bounded)
    tested = dict.fromkeys(test.setting for test in verdict.tests)
    return content | {"files": {name: file_sha256(Path(name)) for name in tested}}


def certify_models(
    config: AlignConfig, names: Sequence[str], progress: Progress | None = None
) -> Certificate:
    """Of models, the safest first, each asked `config.budget.prompts` prompts of the world.

    Raises `InputError`: no budget, world or evaluation, or a model that cannot be loaded.
    """
    budget, evaluation = config.budget, config.evaluation
    if budget is None or evaluation is None or config.world is None:
        raise InputError("certify: needs a limit, a world and an evaluation")
    refuse_launch(config.launch, "certify")
    told, trust = progress or Silent(), config.trust_remote_code
    world, how = get_world(config.world), _how(evaluation, budget)
    bounded = budget.bounded(max_cost_of(world))
    bf16, seed = use_bf16(config.bf16), stage_seed(config, "calibrate")
    prompts = world.prompts(evaluation.split, budget.prompts, seed)
    prints: dict[str, str] = {}

    def answers(name: str) -> list[Asked]:
        told.stage(f"ask {name}")
        loaded = load_model(name, trust_remote_code=trust)
        prints[name] = fingerprint(loaded.model)
        model = for_inference(loaded, bf16)
        scored = measure(
            world,
            prompts,
            how,
            policy=model,
            start=model,
            tokenizer=loaded.tokenizer,
            seed=seed,
            update=updates(told),
        )
        told.done()
        return by_prompt(prompts, scored)

    with quiet_libraries():
        tried = [(name, lambda name=name: answers(name)) for name in names]
        verdict = certify(tried, budget.all_limits(), bounded)
    return as_certificate(verdict, budget.all_limits(), bounded) | {
        "models": {name: {"name": name, "fingerprint": print_} for name, print_ in prints.items()},
        "prompts": len(prompts),
        "sampling": how.sampling(),
        "backend": how.backend,
        "seed": seed,
        "world": config.world,
    }


def check_certificate_out(path: Path, overwrite: bool, inputs: Mapping[str, Any]) -> None:
    """Raise `InputError` where a certificate cannot be written to a file."""
    check_out(path, overwrite, inputs)
    check_folder(path.parent, "out")
