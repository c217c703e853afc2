"""Pairs that a job is given, in files of its steps or made of its judged answers."""

import dataclasses
from collections.abc import Mapping
from typing import cast

from datasets import Dataset

from riskalign.data import (
    Preferences,
    Side,
    is_grouped,
    is_unpaired,
    load_groups,
    load_pairs,
    load_unpaired,
)
from riskalign.errors import InputError
from riskalign.losses import UNPAIRED
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.judged import SCORED, preferences_of
from riskalign.pipeline.methods import has_rows
from riskalign.pipeline.settings import Kind
from riskalign.pipeline.tail import charged_rows, given_safe_pairs, step_source
from riskalign.scorers import Kind as ScorerKind
from riskalign.scorers import training_data

_WORDS = {"helpful": "better", "safe": "safer"}


@dataclasses.dataclass(frozen=True)
class JobData:
    """What a job reads: judged answers, rows that steps bring, pairs that they are judged on.

    `safety` counts what became of the helpful rows by SafeDPO's rule, where they are made by it.
    """

    preferences: Preferences | None = None
    given: Mapping[Kind, Dataset] = dataclasses.field(default_factory=dict)
    held_out: Mapping[Kind, Dataset] = dataclasses.field(default_factory=dict)
    safety: Mapping[str, int] = dataclasses.field(default_factory=dict)


def read_data(config: AlignConfig, preferences: Preferences | None = None) -> JobData:
    """Read and check a job's data; the judged answers only where they are not there yet.

    Raises `InputError`: data that cannot be read or do not fit the configuration.
    """
    preferences = preferences or preferences_of(config)
    given, safety = given_data(config, preferences)
    return JobData(preferences, given, _held_out(config, preferences), safety)


def given_data(
    config: AlignConfig, preferences: Preferences | None
) -> tuple[dict[Kind, Dataset], dict[str, int]]:
    """`JobData.given`, the steps' own data or the job's for them, and `JobData.safety`.

    Also checks that the job's own scorers can learn from the judged answers, before any work.
    """
    if preferences is not None and config.evaluation is not None:
        for scored in SCORED:
            if getattr(config.scoring_settings(), scored) is None:
                remedy = f"Give a scorer's folder as scoring.{scored}, change data.scorer_fraction,"
                remedy += " or set evaluation: null."
                _check_learnable(preferences, "scorer", scored, "data.path", "judges", remedy)
    given: dict[Kind, Dataset] = {}
    safety: dict[str, int] = {}
    for kind in config.pair_kinds():
        step = config.step(kind)
        if step.own_answers:
            _check_own_answers(config, kind, cast(Preferences, preferences))
        elif step.data is None and preferences is None:
            continue
        elif (rule := step.safety_rule()) is not None:
            given[kind], safety = given_safe_pairs(step, preferences, rule)
        else:
            given[kind] = _given_rows(config, kind, preferences)
    for name, trained in config.steps():
        if has_rows(trained) and trained in given and (aim := config.tail_aim(name, trained)):
            source = config.step(trained).data or (preferences.source if preferences else None)
            charged_rows(given[trained], aim, source)  # what cannot be charged is refused here
    return given, safety


def _given_rows(config: AlignConfig, kind: Kind, preferences: Preferences | None) -> Dataset:
    step, field = config.step(kind), f"{kind}.data"
    if (path := step.data) is None:
        judged = cast(Preferences, preferences)
        rows = judged.helpful if kind == "helpful" else judged.safe
        if not rows:
            raise InputError(
                f"{field}: {judged.source}: says nothing of which answer is {_WORDS[kind]}. "
                f"Give {field}, data.safe_path, or set {kind}.skip: true."
            )
        return _scored(config, kind, load_pairs(rows, name_for_errors=field), judged.source)
    source, most = step_source(step), step.max_train_samples
    unpaired, in_methods = step.loss_type in UNPAIRED, config.pair_kinds(without_steps=True)
    single = unpaired and is_unpaired(source, name=path)
    grouped = not single and is_grouped(source, name=path)
    if (single and in_methods) or (grouped and (unpaired or kind in in_methods)):
        holds = "single responses" if single else "groups of scored answers"
        step_names = ", ".join(config.method_kinds())
        needs = f"the step {step_names}" if kind in in_methods or single else "the loss kto"
        raise InputError(
            f"{field}: {path}: holds {holds}, and {needs} needs pairs. Give pairs, which every "
            "loss takes, or leave out that need (of ppo its scorers and ptx)."
        )
    if single:
        return load_unpaired(source, name=field, most=most)
    if grouped:
        return load_groups(source, name=path, most=most)
    return _scored(config, kind, load_pairs(source, name_for_errors=path, most=most), path)


def _scored(config: AlignConfig, kind: Kind, pairs: Dataset, source: str) -> Dataset:
    """The pairs, if they have the scores that the settings need."""
    step, needs, remedy = config.step(kind), "", f"{kind}.target: hard"
    if step.target != "hard":
        needs = f"{kind}.target {step.target!r}"
    elif step.answer_risk is not None:
        needs, remedy = f"{kind}.answer_risk", f"{kind}.answer_risk: null"
    elif kind == "safe" and config.scorers is not None and config.scorers.safety_signs:
        needs, remedy = "scorers.safety_signs", "scorers.safety_signs: false"
    if needs and any(score is None for score in pairs["score_chosen"]):
        raise InputError(
            f"{kind}.data: {source}: {needs} needs 'score_chosen' and 'score_rejected' (minus the "
            f"costs, in safe pairs) in every row. Add them, or set {remedy}."
        )
    return pairs


def _check_own_answers(config: AlignConfig, kind: Kind, preferences: Preferences) -> None:
    """Find too few prompts, and labels that scorers cannot learn from, before any work."""
    wanted, n = config.step_sampling(kind).prompts, len(preferences.prompts("train"))
    if wanted > n:
        field = "sampling" if config.step(kind).sampling is None else f"{kind}.sampling"
        raise InputError(
            f"{field}.prompts is {wanted}, and there are {n} training prompts. Lower it, "
            "data.eval_fraction or data.scorer_fraction."
        )
    for scored in SCORED:
        field, remedy = f"{kind}.own_answers", f"Give such labels, or {kind}.own_answers: false."
        _check_learnable(preferences, "train", scored, field, "would label them", remedy)


def _check_learnable(
    preferences: Preferences, side: Side, scored: ScorerKind, field: str, does: str, remedy: str
) -> None:
    label = SCORED[scored]
    rows = preferences.judged(side, label)
    try:
        if not rows:
            raise InputError(f"no label says which answer is {_WORDS[label]}.")
        training_data(scored, rows)
    except InputError as error:
        raise InputError(
            f"{field}: {preferences.source}: the {scored} scorer that {does} cannot learn from the "
            f"{side} records: {error} {remedy}"
        ) from error


def _held_out(config: AlignConfig, preferences: Preferences | None) -> dict[Kind, Dataset]:
    """The pairs that steps are judged on, read and checked."""
    held_out: dict[Kind, Dataset] = {}
    for kind in dict.fromkeys(kind for _, kind in config.steps() if has_rows(kind)):
        if (path := config.step(kind).eval_data) is not None:
            held_out[kind] = load_pairs(path)
        elif rows := getattr(preferences, f"{kind}_eval", None):
            held_out[kind] = load_pairs(rows, name_for_errors=f"{kind}.eval_data")
    return held_out
