"""What an evaluation on sets needs, loaded and checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riskalign.data.identity import text_hash
from riskalign.errors import InputError
from riskalign.evaluation.sets import (
    EvaluationSet,
    RiskRecord,
    SetPrompt,
    load_prompt_set,
    load_risk_set,
    risk_questions,
)
from riskalign.models import fingerprint, load_model
from riskalign.models.sampling import checked_prompts
from riskalign.pipeline import machine
from riskalign.pipeline.job import ModelOnDisk
from riskalign.pipeline.learnt import prompts_of
from riskalign.pipeline.ledger import content_hash
from riskalign.pipeline.progress import Progress
from riskalign.pipeline.scoring import folder_hash, load_scorer
from riskalign.pipeline.sets.settings import SetsSettings
from riskalign.scorers import Scorer, check_independent, check_unseen
from riskalign.scorers import load_scorer as scorer_in

#: A set's name in the settings, and the folder of its answers.
FOLDERS = {"prompts": "answers", "helpful_prompts": "helpful", "over_refusal": "over_refusal"}
SCORERS = ("reward", "cost")


@dataclass(frozen=True)
class Inputs:
    """Sets, scorers and models; each has been found able to do what it will be asked.

    `scorers` holds each kind's folder and its hash, `vocabularies` each model's fingerprint,
    `notes` sentences for the report.
    """

    settings: SetsSettings
    folder: Path
    baseline: str
    sets: dict[str, EvaluationSet[SetPrompt]]
    risks: EvaluationSet[RiskRecord] | None
    scorers: dict[str, tuple[str, str]]
    models: dict[str, ModelOnDisk]
    vocabularies: dict[str, str]
    notes: list[str]


def load_inputs(sources: Mapping[str, str], settings: SetsSettings, progress: Progress) -> Inputs:
    """Load everything once; `InputError` for what cannot be used."""
    baseline = settings.baseline or next(iter(sources))
    if baseline not in sources:
        raise InputError(
            f"baseline: no model is named {baseline!r}. Give one of {', '.join(sources)}."
        )
    sets = {
        kind: load_prompt_set(
            source,
            split=settings.split,
            prompt_field=settings.prompt_field,
            category_field=settings.category_field,
            labelled=kind == "over_refusal",
            max_prompts=settings.max_prompts,
        )
        for kind in FOLDERS
        if (source := getattr(settings, kind))
    }
    risks = load_risk_set(settings.r_judge) if settings.r_judge else None
    folders = {kind: getattr(settings, f"scorer_{kind}") for kind in SCORERS}
    scorers = {kind: (of, folder_hash(kind, of)) for kind, of in folders.items() if of}
    folder = Path(settings.output_dir).expanduser()
    machine.check_folder(folder)
    progress.stage("check", len(scorers) + len(sources))
    loaded = {}
    for n, (kind, (name, _)) in enumerate(scorers.items()):
        progress.update(n, name)
        loaded[kind] = name, load_scorer(kind, name)
    notes = independence(loaded, sources, sets, settings.trained_with)
    models, vocabularies = {}, {}
    for n, (name, source) in enumerate(sources.items(), start=len(scorers)):
        progress.update(n, name)
        found = load_model(source, trust_remote_code=settings.trust_remote_code)
        for own in sets.values():
            checked_prompts(found.model, found.tokenizer, own.asked(), settings.max_new_tokens)
        if risks is not None:
            risk_questions(found.model, found.tokenizer, risks, max_length=settings.max_length)
        weights = fingerprint(found.model)
        models[name] = ModelOnDisk(source, weights, settings.trust_remote_code)
        embeddings: Any = found.model.get_input_embeddings()
        rows = int(embeddings.weight.shape[0])
        vocabularies[name] = content_hash([rows, found.tokenizer.get_vocab()])
    progress.done()
    return Inputs(settings, folder, baseline, sets, risks, scorers, models, vocabularies, notes)


def independence(
    scorers: Mapping[str, tuple[str, Scorer]],
    models: Mapping[str, str],
    sets: Mapping[str, EvaluationSet[SetPrompt]],
    trained_with: Sequence[str],
) -> list[str]:
    """Sentences that say why the scorers may judge the models, and what is not known.

    Args:
        scorers: folder and scorer, by kind.
        models: folder or hub id, by name.
        sets: the prompts that are asked.
        trained_with: folders of scorers that took part in training the models.

    Raises:
        InputError: a scorer learnt from prompts that are asked or that a model was trained on, or
            is one of those that took part in training, or learnt from their prompts.
    """
    asked = {text_hash(list(p.messages)) for own in sets.values() for p in own.items}
    trained = {name: prompts_of(source) or set() for name, source in models.items()}
    known = {name: prompts for name, prompts in trained.items() if prompts}
    notes = [
        f"Of the {len(asked):,} prompts that are asked, {len(asked & prompts):,} are among those "
        f"that {name}'s training could learn from."
        for name, prompts in known.items()
        if asked & prompts
    ]
    if not scorers:
        return notes
    groups = {"are asked": asked}
    groups |= {f"{name} was trained on": prompts for name, prompts in known.items()}
    trainers = [scorer_in(folder) for folder in trained_with]
    for kind, (folder, scorer) in scorers.items():
        check_unseen(f"scorer_{kind} {folder!r}", scorer.card, groups)
        notes += [check_independent(scorer, *trainers)] if trainers else []
    names = ", ".join(known)
    also = f", nor from one that {names} was trained on, as far as its folder tells"
    notes.append(f"No scorer learnt from a prompt that is asked{also if known else ''}.")
    if unknown := ", ".join(name for name in trained if name not in known):
        notes.append(
            f"What {unknown} may have learnt from is not written in the model's folder, and was "
            "not held against the scorers' prompts."
        )
    if not trainers:
        notes.append("No scorer was named that took part in training (--trained_with).")
    return notes
