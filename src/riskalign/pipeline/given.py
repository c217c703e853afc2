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
from riskalign.pipeline.methods import has_rows
from riskalign.pipeline.safety import given_safe_pairs, rule_of
from riskalign.pipeline.scoring import SCORED
from riskalign.pipeline.settings import Kind
from riskalign.pipeline.tail import charged_rows
from riskalign.scorers import Kind as ScorerKind
from riskalign.scorers import training_data

_WORDS = {"helpful": "better", "safe": "safer"}


def given_data(config: AlignConfig, preferences: Preferences | None = None) -> dict[Kind, Dataset]:
    """The data of the steps that bring their own, or the job's for them, read and checked.

    Also that the job's own scorers can learn from the judged answers, before any work.
    """
    if preferences is not None:
        _check_judges(config, preferences)
    given: dict[Kind, Dataset] = {}
    methods = ", ".join(config.method_kinds())
    for kind in config.pair_kinds():
        step = config.step(kind)
        if step.own_answers:
            assert preferences is not None  # a rule of the configuration
            _check_own_answers(config, kind, preferences)
            continue
        rule = rule_of(step)
        if rule is not None and (step.data is not None or preferences is not None):
            given[kind], _ = given_safe_pairs(step, preferences, rule)
            continue
        if step.data is None:
            if preferences is not None and config.data is not None:
                rows = preferences.helpful if kind == "helpful" else preferences.safe
                given[kind] = _scored(config, kind, _pairs(rows, kind, config), config.data.path)
            continue
        if step.loss_type in UNPAIRED and is_unpaired(step.data):
            if config.pair_kinds(without_steps=True):
                raise InputError(
                    f"{kind}.data: {step.data}: holds single responses, and the step {methods} "
                    "needs pairs. Give pairs, which KTO takes too, or leave out that need of it."
                )
            given[kind] = load_unpaired(step.data, name=f"{kind}.data")
            continue
        if is_grouped(step.data):
            if kind in config.pair_kinds(without_steps=True) or step.loss_type in UNPAIRED:
                raise InputError(
                    f"{kind}.data: {step.data}: holds groups of scored answers, and the loss "
                    "kto and steps such as ppo take pairs. Give these, or a loss of pairs."
                )
            given[kind] = load_groups(step.data)
            continue
        given[kind] = _scored(config, kind, load_pairs(step.data), step.data)
    for name, trained in config.steps():
        if has_rows(trained) and trained in given and (aim := config.tail_aim(name, trained)):
            source = config.step(trained).data or (preferences.source if preferences else None)
            charged_rows(given[trained], aim, source)  # what cannot be charged is refused here
    return given


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
        try:
            _check_learnable(preferences, "train", scored)
        except InputError as error:
            raise InputError(
                f"{kind}.own_answers: {preferences.source}: the {scored} scorer that would label "
                f"them cannot learn from the training records: {error} Give such labels, or set "
                f"{kind}.own_answers: false."
            ) from error


def _check_judges(config: AlignConfig, preferences: Preferences) -> None:
    """Find labels that the scorers which judge cannot learn from."""
    if config.evaluation is None:
        return
    for scored in SCORED:
        if getattr(config.scoring_settings(), scored) is not None:
            continue
        try:
            _check_learnable(preferences, "scorer", scored)
        except InputError as error:
            raise InputError(
                f"data.path: {preferences.source}: the {scored} scorer that judges cannot learn "
                f"from the records set aside for it: {error} Give a scorer's folder as "
                f"scoring.{scored}, change data.scorer_fraction, or set evaluation: null."
            ) from error


def _check_learnable(preferences: Preferences, side: Side, scored: ScorerKind) -> None:
    label = SCORED[scored]
    rows = preferences.judged(side, label)
    if not rows:
        raise InputError(f"no label says which answer is {_WORDS[label]}.")
    training_data(scored, rows)


def held_out_data(
    config: AlignConfig, preferences: Preferences | None = None
) -> dict[Kind, Dataset]:
    """The pairs that steps are judged on, read and checked."""
    found: dict[Kind, Dataset] = {}
    for kind in dict.fromkeys(kind for _, kind in config.steps()):
        if not has_rows(kind):
            continue
        path = config.step(kind).eval_data
        if path is not None:
            found[kind] = load_pairs(path)
        elif preferences is not None:
            rows = preferences.helpful_eval if kind == "helpful" else preferences.safe_eval
            if rows:
                found[kind] = load_pairs(rows, name_for_errors=f"{kind}.eval_data")
    return found


def _pairs(rows: list[dict[str, object]], kind: Kind, config: AlignConfig) -> Dataset:
    if not rows:
        assert config.data is not None
        raise InputError(
            f"{kind}.data: {config.data.path}: says nothing of which answer is "
            f"{_WORDS[kind]}. Give {kind}.data, data.safe_path, or "
            f"set {kind}.skip: true."
        )
    return load_pairs(rows, name_for_errors=f"{kind}.data")


def _scored(config: AlignConfig, kind: Kind, pairs: Dataset, source: str | None) -> Dataset:
    """The pairs, if they have the scores that the settings need."""
    step = config.step(kind)
    unscored = any(score is None for score in pairs["score_chosen"])
    if (step.target != "hard" or step.answer_risk is not None) and unscored:
        needs = f"target {step.target!r}" if step.target != "hard" else "answer_risk"
        raise InputError(
            f"{kind}.data: {source}: {kind}.{needs} needs 'score_chosen' "
            f"and 'score_rejected' in every row. Add them, or set {kind}.target: hard."
        )
    if config.scorers is not None and config.scorers.safety_signs and kind == "safe" and unscored:
        raise InputError(
            f"safe.data: {source}: scorers.safety_signs needs 'score_chosen' and "
            "'score_rejected', minus the costs, in every row. Add them, or set "
            "scorers.safety_signs: false."
        )
    return pairs
