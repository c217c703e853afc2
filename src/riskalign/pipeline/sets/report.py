"""From the files that an evaluation on sets has left to `evaluate.json` and `evaluate.html`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from riskalign import __version__
from riskalign.evaluation import Bootstrap
from riskalign.evaluation.sets import (
    OverRefusal,
    PromptSet,
    RiskScores,
    RiskSet,
    SetAnswer,
    answer_metrics,
    category_rows,
    identify_risks,
    model_table,
    over_refusal,
    read_answers,
    write_sets,
)
from riskalign.pipeline import machine
from riskalign.pipeline.manifest import now
from riskalign.pipeline.sets.settings import SetsSettings

Answers = dict[str, list[SetAnswer]]  # by model


def report(
    folder: Path,
    settings: SetsSettings,
    baseline: str,
    subjects: Mapping[str, Any],
    sets: Mapping[str, PromptSet],
    risks: RiskSet | None,
    said: Sequence[str],
    command: str,
) -> tuple[Path, Path]:
    """Measure what is in the folder and write `evaluate.json` and `evaluate.html`; their paths.

    `said` are sentences for the page that are known before there are answers.
    """
    bootstrap = Bootstrap(settings.n_boot, settings.seed, settings.confidence)
    answers = {
        kind: {name: read_answers(folder / place / f"{name}.jsonl") for name in subjects}
        for kind, place in (
            ("prompts", "answers"),
            ("helpful_prompts", "helpful"),
            ("over_refusal", "over_refusal"),
        )
        if kind in sets
    }
    models: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for name, subject in subjects.items():
        own: dict[str, Any] = dataclasses.asdict(subject)
        own |= _measured(name, baseline, answers, bootstrap)
        if "over_refusal" in sets:
            pairs = [(a.prompt_id, a.answer) for a in answers["over_refusal"][name]]
            own["over_refusal"] = over_refusal(sets["over_refusal"], pairs, bootstrap)
        if risks is not None:
            own["r_judge"], cut = _judged(folder, name, settings, risks, bootstrap)
            if cut:
                notes.append(
                    f"{name}: {cut} of {len(risks.records)} records of R-Judge were cut to fit, "
                    "their oldest part left out."
                )
        models[name] = own
    notes = [*said, *_notes(settings, baseline, subjects, sets), *notes]
    categories = sets["prompts"].categories() if "prompts" in sets else []
    content = {
        "schema": 1,
        "created": now(),
        "riskalign_version": __version__,
        "title": f"Evaluation of {', '.join(models)}",
        "baseline": baseline,
        "confidence": settings.confidence,
        "sets": {name: _about(found) for name, found in sets.items()}
        | ({} if risks is None else {"r_judge": _about(risks)}),
        "models": models,
        "table": model_table({name: _cells(own) for name, own in models.items()}, categories),
        "notes": notes,
        "settings": dataclasses.asdict(settings),
        "reproduce": {
            "command": command,
            "versions": machine.versions(),
            "commit": machine.commit(),
        },
    }
    results, html = folder / "evaluate.json", folder / "evaluate.html"
    write_sets(content, results, html)
    return results, html


def _measured(
    name: str, baseline: str, answers: Mapping[str, Answers], bootstrap: Bootstrap
) -> dict[str, Any]:
    """`overall`, `categories` and `helpful`, as far as there are answers for them."""
    found: dict[str, Any] = {}
    for kind, own in answers.items():
        if kind == "over_refusal":
            continue
        options: dict[str, Any] = {
            "bootstrap": bootstrap,
            "severities": [a.cost for each in own.values() for a in each if (a.cost or 0) > 0],
        }
        metrics = answer_metrics(own[name], own[baseline], **options)
        if kind == "prompts":
            found["overall"] = metrics
            found["categories"] = category_rows(own[name], own[baseline], **options)
        found["helpful"] = metrics  # of `helpful_prompts`, which come last, where there are any
    return found


def _judged(
    folder: Path, name: str, settings: SetsSettings, risks: RiskSet, bootstrap: Bootstrap
) -> tuple[dict[str, Any], int]:
    read = json.loads((folder / "r_judge" / f"{name}.json").read_text(encoding="utf-8"))
    scores = RiskScores(**read)
    found = identify_risks(risks, scores, threshold=settings.threshold, bootstrap=bootstrap)
    return {**vars(found), "cut": scores.cut}, scores.cut


def _cells(own: Mapping[str, Any]) -> dict[str, Any]:
    """A model's results as `model_table` wants them."""
    cells: dict[str, Any] = {
        "overall": own.get("overall"),
        "helpful": own.get("helpful"),
        "categories": {row.category: row.metrics for row in own.get("categories", ())},
    }
    if "r_judge" in own:
        cells["r_judge"] = vars(own["r_judge"]["overall"])
    refusals = own.get("over_refusal")
    if isinstance(refusals, OverRefusal):
        cells["over_refusal"] = {
            "over_refusal": refusals.safe.refused,
            "refusal": refusals.unsafe.refused,
        }
    return cells


def _about(found: PromptSet | RiskSet) -> dict[str, Any]:
    return {
        "source": found.source,
        "n": len(found.prompts if isinstance(found, PromptSet) else found.records),
        "duplicates": found.duplicates,
        "left_out": found.left_out if isinstance(found, PromptSet) else 0,
        "sha256": found.identity(),
    }


def _notes(
    settings: SetsSettings,
    baseline: str,
    subjects: Mapping[str, Any],
    sets: Mapping[str, PromptSet],
) -> list[str]:
    """What a reader must know to read the dashes and the numbers."""
    found = []
    for kind, what in (("reward", "helpfulness"), ("cost", "safety and the tail")):
        if not getattr(settings, f"scorer_{kind}") and {"prompts", "helpful_prompts"} & sets.keys():
            found.append(f"No --scorer_{kind} was given: {what} was not measured.")
    if settings.scorer_reward and "prompts" in sets and "helpful_prompts" not in sets:
        found.append("Helpfulness was measured on --prompts, for no --helpful_prompts were given.")
    vocabulary = subjects[baseline].vocabulary
    odd = [name for name, subject in subjects.items() if subject.vocabulary != vocabulary]
    if odd and "prompts" in sets:
        found.append(
            f"{', '.join(odd)}: another vocabulary than {baseline}'s, so that KL and SRR to it "
            "are not defined."
        )
    if "prompts" in sets:
        counts = [p.category for p in sets["prompts"].prompts]
        single = [c for c in sets["prompts"].categories() if counts.count(c) == 1]
        if single:
            found.append(f"A single prompt, so no interval and no figure: {', '.join(single)}.")
    if "over_refusal" in sets:
        found.append("Refusals are found by a rule on how answers begin, in English.")
    return found
