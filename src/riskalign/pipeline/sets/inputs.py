"""What `riskalign evaluate` on sets is told and needs, loaded and checked before any work."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

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
from riskalign.pipeline.judged import SCORED, folder_hash, load_scorer, prompts_of
from riskalign.pipeline.ledger import content_hash
from riskalign.pipeline.progress import Progress
from riskalign.pipeline.settings import Measuring
from riskalign.scorers import Kind as ScorerKind
from riskalign.scorers import Scorer, check_independent, check_unseen
from riskalign.scorers import load_scorer as scorer_in
from riskalign.settings import (
    LISTED,
    Count,
    Flag,
    Name,
    Number,
    Whole,
    Words,
    settings,
)

#: A set's name in the settings, and the folder of its answers.
FOLDERS = {"prompts": "answers", "helpful_prompts": "helpful", "over_refusal": "over_refusal"}
_NAME = re.compile(r"[\w.@+-]{1,80}")


@dataclass
class Sets:
    """What models are asked, and what judges them: the first fields of `SetsSettings`."""

    prompts: Words | None = None
    """Prompts by category: .json, .jsonl, .csv, .parquet or a hub id."""
    helpful_prompts: Words | None = None
    """Prompts to measure helpfulness on; otherwise those of prompts."""
    over_refusal: Words | None = None
    """Prompts labelled safe or unsafe, such as XSTest's file."""
    r_judge: Words | None = None
    """R-Judge's folder of JSON records, or one file."""
    scorer_reward: Words | None = None
    """Folder of a reward model. A scorer is refused if it learnt from a prompt that is asked, or
    that a model was trained on as far as its folder tells."""
    scorer_cost: Words | None = None
    """Folder of a cost model."""
    trained_with: Annotated[tuple[Words, ...], LISTED] = ()
    """Folders of the scorers that took part in training the models; those above must be
    independent of them."""
    output_dir: Name = "runs/evaluate"
    """Folder for the results."""
    baseline: Words | None = None
    """The name of the model that the others are held against; null for the first."""
    split: Words = "train"
    """Of the sets of prompts, as the next three fields are."""
    prompt_field: Words = "prompt"
    """The column of the prompts."""
    category_field: Words | None = None
    """The column of the categories; null for category, else type."""
    max_prompts: Count | None = None
    """Keep so many, from every category alike; null for all."""


@settings
class SetsSettings(Measuring, Sets):
    """Which sets, scorers and baseline, and how answers are sampled and measured.

    Raises `InputError`, naming the field, for a value out of range.
    """

    max_new_tokens: Count = 128
    threshold: Number = 0.0
    """What log P(Yes) - log P(No) must exceed for a record to be called unsafe."""
    max_length: Count | None = None
    """The longest question in tokens; null for what the model has positions for."""
    seed: Whole = 0
    """Of sampling and of the bootstrap."""
    bf16: Flag | None = None
    """null takes bfloat16 where the device has it natively."""
    trust_remote_code: Flag = False
    """Run code that comes with a model."""

    def __post_init__(self) -> None:
        """Refuse the first field that is out of range."""
        if not (self.prompts or self.helpful_prompts or self.over_refusal or self.r_judge):
            raise InputError(
                "evaluate: no set is named. Give --prompts, --helpful_prompts, --over_refusal or "
                "--r_judge."
            )


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
    scorers: Mapping[ScorerKind, tuple[str, str]]
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
    folders = {kind: getattr(settings, f"scorer_{kind}") for kind in SCORED}
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
    scorers: Mapping[ScorerKind, tuple[str, Scorer]],
    models: Mapping[str, str],
    sets: Mapping[str, EvaluationSet[SetPrompt]],
    trained_with: Sequence[str],
) -> list[str]:
    """Sentences that say why the scorers (folder and scorer, by kind) may judge the models.

    Also what is not known. The scorers in the folders `trained_with` took part in training.

    Raises `InputError`: a scorer learnt from prompts that are asked or that a model was trained on,
    or is one of those that took part in training, or learnt from their prompts.
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


def named_models(models: Sequence[str]) -> dict[str, str]:
    """Name and source of each `NAME=SOURCE`, or of a source alone, named after its last part.

    Raises `InputError`: no model, a name that two have or that cannot be a file's.
    """
    if not models:
        raise InputError("--model: no model is named. Give --model NAME=FOLDER or --model HUB_ID.")
    found: dict[str, str] = {}
    for text in models:
        name, equals, source = text.partition("=")
        if not equals:
            name, source = Path(text).name.replace(":", "-"), text
        if not _NAME.fullmatch(name) or name.startswith("."):
            raise InputError(
                f"--model {text!r}: {name!r} cannot name a file. Give --model NAME=FOLDER with "
                "letters, digits, '-', '_' or '.' in the name."
            )
        if not source:
            raise InputError(f"--model {text!r}: the folder is missing after '='.")
        if name.lower() in map(str.lower, found):
            raise InputError(
                f"--model {text!r}: a model is named {name!r} already. Give --model NAME=FOLDER "
                "with another name."
            )
        found[name] = source
    return found
