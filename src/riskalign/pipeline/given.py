"""Pairs that a job is given, in files of its steps or made of its judged answers."""

from datasets import Dataset

from riskalign.data import (
    Preferences,
    is_grouped,
    is_unpaired,
    load_groups,
    load_pairs,
    load_unpaired,
)
from riskalign.data.preferences import Side
from riskalign.errors import InputError
from riskalign.losses import UNPAIRED
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.judged import SCORED
from riskalign.pipeline.methods import has_rows
from riskalign.pipeline.settings import Kind
from riskalign.pipeline.tail import charged_rows, given_safe_pairs
from riskalign.scorers import Kind as ScorerKind
from riskalign.scorers import training_data

_WORDS = {"helpful": "better", "safe": "safer"}


def given_data(config: AlignConfig, preferences: Preferences | None = None) -> dict[Kind, Dataset]:
    """The data of the steps that bring their own, or the job's for them, read and checked.

    Also that the job's own scorers can learn from the judged answers, before any work.
    """
    if preferences is not None and config.evaluation is not None:
        for scored in SCORED:
            if getattr(config.scoring_settings(), scored) is None:
                remedy = f"Give a scorer's folder as scoring.{scored}, change data.scorer_fraction,"
                remedy += " or set evaluation: null."
                _check_learnable(preferences, "scorer", scored, "data.path", "judges", remedy)
    given: dict[Kind, Dataset] = {}
    for kind in config.pair_kinds():
        step = config.step(kind)
        if step.own_answers:
            assert preferences is not None  # a rule of the configuration
            _check_own_answers(config, kind, preferences)
        elif step.data is not None or preferences is not None:
            given[kind] = _given_rows(config, kind, preferences)
    for name, trained in config.steps():
        if has_rows(trained) and trained in given and (aim := config.tail_aim(name, trained)):
            source = config.step(trained).data or (preferences.source if preferences else None)
            charged_rows(given[trained], aim, source)  # what cannot be charged is refused here
    return given


def _given_rows(config: AlignConfig, kind: Kind, preferences: Preferences | None) -> Dataset:
    step, with_methods = config.step(kind), config.pair_kinds(without_steps=True)
    field, unpaired = f"{kind}.data", step.loss_type in UNPAIRED
    if (rule := step.safety_rule()) is not None:
        return given_safe_pairs(step, preferences, rule)[0]
    if step.data is None:
        assert preferences is not None
        assert config.data is not None
        rows = preferences.helpful if kind == "helpful" else preferences.safe
        if not rows:
            raise InputError(
                f"{field}: {config.data.path}: says nothing of which answer is {_WORDS[kind]}. "
                f"Give {field}, data.safe_path, or set {kind}.skip: true."
            )
        return _scored(config, kind, load_pairs(rows, name_for_errors=field), config.data.path)
    if unpaired and is_unpaired(step.data):
        if with_methods:
            raise InputError(
                f"{field}: {step.data}: holds single responses, and the step "
                f"{', '.join(config.method_kinds())} needs pairs. Give pairs, which KTO takes too, "
                "or leave out that need of it (ppo's scorers and ptx)."
            )
        return load_unpaired(step.data, name=field)
    if is_grouped(step.data):
        if unpaired or kind in with_methods:
            raise InputError(
                f"{field}: {step.data}: holds groups of scored answers, and the loss kto "
                "and steps such as ppo take pairs. Give these, or a loss of pairs."
            )
        return load_groups(step.data)
    return _scored(config, kind, load_pairs(step.data), step.data)


def _scored(config: AlignConfig, kind: Kind, pairs: Dataset, source: str | None) -> Dataset:
    """The pairs, if they have the scores that the settings need."""
    step = config.step(kind)
    signs = kind == "safe" and config.scorers is not None and config.scorers.safety_signs
    needs, remedy = "", f"{kind}.target: hard"
    if step.target != "hard":
        needs = f"{kind}.target {step.target!r}"
    elif step.answer_risk is not None:
        needs = f"{kind}.answer_risk"
    elif signs:
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


def held_out_data(
    config: AlignConfig, preferences: Preferences | None = None
) -> dict[Kind, Dataset]:
    """The pairs that steps are judged on, read and checked."""
    held_out: dict[Kind, Dataset] = {}
    for kind in dict.fromkeys(kind for _, kind in config.steps() if has_rows(kind)):
        path = config.step(kind).eval_data
        if path is not None:
            held_out[kind] = load_pairs(path)
        elif preferences is not None:
            rows = preferences.helpful_eval if kind == "helpful" else preferences.safe_eval
            if rows:
                held_out[kind] = load_pairs(rows, name_for_errors=f"{kind}.eval_data")
    return held_out
