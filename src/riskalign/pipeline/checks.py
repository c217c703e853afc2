"""What is wrong with a group of a job's configuration: fields by their dotted names, and why."""

import math
from collections.abc import Iterator, Sequence

from transformers.trainer_utils import SchedulerType

from riskalign.errors import InputError
from riskalign.losses import LOSSES, ORDERED, UNPAIRED
from riskalign.pipeline.settings import (
    EvaluationConfig,
    Problem,
    SamplingConfig,
    SFTConfig,
    StepConfig,
)
from riskalign.risk import answer_risk, get_risk

# So far from both models float32 still keeps five of its seven digits.
LARGEST_WEIGHT = 100


def step_problems(kind: str, step: StepConfig) -> Iterator[Problem]:
    yield from _risk(f"{kind}.risk", step.risk)
    yield from wrong(
        f"{kind}.loss_type",
        step.loss_type not in {*LOSSES, *UNPAIRED},
        f"{step.loss_type!r} is not one of {', '.join([*LOSSES, *UNPAIRED])}",
    )
    if step.loss_type in UNPAIRED:
        yield from _unpaired_problems(kind, step)
    yield from wrong(
        f"{kind}.risk",
        step.loss_type.startswith("tdpo") and step.risk != "mean",
        f"{step.risk!r} does not go with {kind}.loss_type {step.loss_type!r}, which is defined "
        "by 'mean'; the rsa losses take any measure",
    )
    yield from _optimisation_problems(kind, step)
    for name in ("gap_scale", "desirable_weight", "undesirable_weight"):
        yield from positive(f"{kind}.{name}", getattr(step, name))
    if step.beta is not None:
        yield from positive(f"{kind}.beta", step.beta)
    yield from least(f"{kind}.alpha", step.alpha, 0)
    evaluation = ("per_device_eval_batch_size", "max_eval_samples")
    for name in (*evaluation, "max_prompt_length", "save_steps"):
        if getattr(step, name) is not None:
            yield from least(f"{kind}.{name}", getattr(step, name), 1)
    yield from wrong(
        f"{kind}.label_smoothing",
        not 0 <= step.label_smoothing < 0.5,
        f"{step.label_smoothing} is not in [0, 0.5)",
    )
    yield from wrong(
        f"{kind}.label_smoothing",
        step.label_smoothing > 0 and step.target != "hard",
        f"needs {kind}.target hard; the other targets have their probabilities from the scores",
    )
    if step.max_gap is not None:
        yield from positive(f"{kind}.max_gap", step.max_gap)
        yield from wrong(
            f"{kind}.max_gap",
            step.target == "hard",
            f"needs another {kind}.target; hard has no use for the size of a gap",
        )
    yield from _tail_problems(kind, step)
    yield from _safety_problems(kind, step)
    if step.sampling is not None:
        yield from sampling_problems(f"{kind}.sampling", step.sampling)


def sft_problems(sft: SFTConfig) -> Iterator[Problem]:
    yield from least("sft.demonstrations", sft.demonstrations, 1)
    yield from _optimisation_problems("sft", sft)


def _optimisation_problems(name: str, step: StepConfig | SFTConfig) -> Iterator[Problem]:
    schedulers = [scheduler.value for scheduler in SchedulerType]
    yield from wrong(
        f"{name}.lr_scheduler_type",
        step.lr_scheduler_type not in schedulers,
        f"{step.lr_scheduler_type!r} is not one of {', '.join(schedulers)}",
    )
    for field_name in ("learning_rate", "num_train_epochs", "max_grad_norm"):
        yield from positive(f"{name}.{field_name}", getattr(step, field_name))
    yield from least(f"{name}.weight_decay", step.weight_decay, 0)
    counts = ("per_device_train_batch_size", "gradient_accumulation_steps", "logging_steps")
    for field_name in counts:
        yield from least(f"{name}.{field_name}", getattr(step, field_name), 1)
    yield from least(f"{name}.max_length", step.max_length, 2)
    yield from wrong(
        f"{name}.max_steps",
        step.max_steps != -1 and step.max_steps < 1,
        f"{step.max_steps} is neither at least 1 nor -1 (as many as the epochs have)",
    )
    yield from share(f"{name}.warmup_ratio", step.warmup_ratio)


def _safety_problems(kind: str, step: StepConfig) -> Iterator[Problem]:
    if step.safe_cost is None:
        yield from wrong(
            f"{kind}.safety_margin",
            step.safety_margin != StepConfig.safety_margin,
            f"is given, which needs {kind}.safe_cost",
        )
        return
    name, given = f"{kind}.safe_cost", f"is given, which needs {kind}."
    yield from wrong(name, kind != "helpful", "is of pairs by reward; give helpful.safe_cost")
    yield from wrong(name, not math.isfinite(step.safe_cost), f"{step.safe_cost} is not finite")
    yield from wrong(name, step.target != "offset", given + "target: offset")
    yield from wrong(name, step.rows != "pairs", given + "rows: pairs")
    yield from wrong(
        name, step.gap_scale != 1.0, given + "gap_scale: 1.0, in whose units its margin is"
    )
    margin = step.safety_margin
    yield from wrong(
        f"{kind}.safety_margin", not 0 <= margin < math.inf, f"{margin} is not at least 0"
    )


def _tail_problems(kind: str, step: StepConfig) -> Iterator[Problem]:
    yield from wrong(
        f"{kind}.anchors", not 0 <= step.anchors <= 1, f"{step.anchors} is not in [0, 1]"
    )
    yield from wrong(
        f"{kind}.anchors",
        step.anchors > 0 and step.target in ORDERED,
        f"is above 0, which needs {kind}.target gap or soft: others learn an order, and anchors "
        "have none",
    )
    yield from wrong(
        f"{kind}.rows",
        step.rows == "groups" and step.loss_type in UNPAIRED,
        f"is groups, and {kind}.loss_type {step.loss_type!r} takes single responses; choose pairs",
    )
    for name in ("answer_risk", "limit"):
        given = getattr(step, name) is not None
        yield from wrong(
            f"{kind}.{name}", given and kind != "safe", "is of the costs; give safe." + name
        )
        yield from wrong(
            f"{kind}.{name}",
            given and step.loss_type in UNPAIRED,
            f"needs scores of pairs or groups, and {kind}.loss_type {step.loss_type!r} has labels",
        )
    if step.answer_risk is not None:
        try:
            answer_risk(step.answer_risk)
        except InputError as error:
            yield f"{kind}.answer_risk", str(error)
    yield from wrong(
        f"{kind}.limit",
        step.limit is not None and not math.isfinite(step.limit),
        f"{step.limit} is not finite",
    )
    yield from wrong(
        f"{kind}.limit",
        step.limit is not None and step.answer_risk is None,
        f"needs {kind}.answer_risk, the risk that it limits (mean for the mean cost)",
    )
    yield from wrong(
        f"{kind}.limit",
        step.limit is not None and step.target in ORDERED,
        f"needs {kind}.target gap or soft; others learn no sizes",
    )
    yield from wrong(
        f"{kind}.limit",
        step.limit is not None and step.beta is not None,
        f"is given and {kind}.beta is as well; the limit decides it",
    )


def _unpaired_problems(kind: str, step: StepConfig) -> Iterator[Problem]:
    why = f"which {kind}.loss_type {step.loss_type!r} needs"
    yield from wrong(f"{kind}.target", step.target != "hard", f"is not hard, {why}")
    yield from wrong(f"{kind}.label_smoothing", step.label_smoothing > 0, f"is not 0, {why}")
    yield from wrong(
        f"{kind}.cache_reference", step.cache_reference is not None, f"is not null, {why}"
    )
    yield from wrong(
        f"{kind}.per_device_train_batch_size",
        step.per_device_train_batch_size < 2,
        f"is not at least 2, {why}: its KL is taken from other responses of the batch",
    )


def sampling_problems(name: str, sampling: SamplingConfig) -> Iterator[Problem]:
    yield from least(f"{name}.answers_per_prompt", sampling.answers_per_prompt, 2)
    n = len(sampling.temperatures)
    yield from wrong(f"{name}.temperatures", n == 0, "is empty; list one or more, such as [1.0]")
    for temperature in sampling.temperatures:
        yield from positive(
            f"{name}.temperatures", temperature, " (answers must differ to make pairs)"
        )
    yield from wrong(
        f"{name}.answers_per_prompt",
        n > 0 and sampling.answers_per_prompt % n != 0,
        f"{sampling.answers_per_prompt} cannot be split evenly over {n} temperatures",
    )
    for field_name in ("prompts", "pairs_per_prompt"):
        yield from least(f"{name}.{field_name}", getattr(sampling, field_name), 1)
    yield from _generation_problems(name, sampling)


def evaluation_problems(evaluation: EvaluationConfig) -> Iterator[Problem]:
    yield from _generation_problems("evaluation", evaluation)
    bounds = {"prompts": 2, "answers_per_prompt": 1, "n_boot": 1, "temperature": 0, "examples": 0}
    for name, value in bounds.items():
        yield from least(f"evaluation.{name}", getattr(evaluation, name), value)
    yield from wrong(
        "evaluation.dial_prompts",
        evaluation.dial_prompts < 0 or evaluation.dial_prompts == 1,
        f"{evaluation.dial_prompts} is neither 0 (no dial) nor at least 2",
    )
    if evaluation.distance_prompts is not None:
        yield from least("evaluation.distance_prompts", evaluation.distance_prompts, 0)
    yield from wrong(
        "evaluation.confidence",
        not 0 < evaluation.confidence < 1,
        f"{evaluation.confidence} is not between 0 and 1",
    )
    yield from _risk("evaluation.risk", evaluation.risk)
    yield from weights_between("evaluation.dial", evaluation.dial)


def _generation_problems(
    name: str, generation: SamplingConfig | EvaluationConfig
) -> Iterator[Problem]:
    yield from least(f"{name}.max_new_tokens", generation.max_new_tokens, 1)
    yield from least(f"{name}.batch_size", generation.batch_size, 1)
    yield from wrong(
        f"{name}.top_p", not 0 < generation.top_p <= 1, f"{generation.top_p} is not in (0, 1]"
    )


def weights_between(name: str, weights: Sequence[float]) -> Iterator[Problem]:
    """Weights between two models, or beyond them as far as rounding leaves something."""
    bad = [w for w in weights if not abs(w) <= LARGEST_WEIGHT]  # NaN is bad as well
    yield from wrong(name, bool(bad), f"{bad} is not in [{-LARGEST_WEIGHT}, {LARGEST_WEIGHT}]")


def refuse_weight(w: float) -> None:
    """Raise `InputError` for a weight between two models that is out of range."""
    if not abs(w) <= LARGEST_WEIGHT:
        raise InputError(
            f"w: {w} is not in [{-LARGEST_WEIGHT}, {LARGEST_WEIGHT}]; 0 is the first model, 1 the "
            "second."
        )


def wrong(name: str, is_wrong: bool, problem: str) -> Iterator[Problem]:
    if is_wrong:
        yield name, problem


def positive(name: str, value: float, remedy: str = "") -> Iterator[Problem]:
    good = math.isfinite(value) and value > 0
    yield from wrong(name, not good, f"{value} is not a positive number{remedy}")


def least(name: str, value: float, bound: int) -> Iterator[Problem]:
    good = math.isfinite(value) and value >= bound
    yield from wrong(name, not good, f"{value} is not at least {bound}")


def share(name: str, value: float) -> Iterator[Problem]:
    yield from wrong(name, not 0 <= value < 1, f"{value} is not in [0, 1)")


def _risk(name: str, spec: str) -> Iterator[Problem]:
    try:
        get_risk(spec)
    except InputError as error:
        yield name, str(error)
