"""From the files that an evaluation on sets has left to `evaluate.json` and `evaluate.html`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from riskalign import __version__
from riskalign.evaluation import Bootstrap
from riskalign.evaluation.sets import (
    RiskScores,
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
from riskalign.pipeline.ledger import now
from riskalign.pipeline.sets.inputs import FOLDERS, Inputs

Answers = dict[str, list[SetAnswer]]  # by model


def report(inputs: Inputs, command: str) -> tuple[Path, Path]:
    """Measure what is in the folder and write `evaluate.json` and `evaluate.html`; their paths."""
    settings, sets, folder = inputs.settings, inputs.sets, inputs.folder
    answers = {
        kind: {
            name: read_answers(folder / FOLDERS[kind] / f"{name}.jsonl") for name in inputs.models
        }
        for kind in sets
    }
    models = {name: _measured(name, inputs, answers) for name in inputs.models}
    about: dict[str, Any] = {**sets}
    if inputs.risks is not None:
        about["r_judge"] = inputs.risks
    content = {
        "schema": 1,
        "created": now(),
        "riskalign_version": __version__,
        "title": f"Evaluation of {', '.join(models)}",
        "baseline": inputs.baseline,
        "confidence": settings.confidence,
        "sets": {
            kind: {
                "source": own.source,
                "n": len(own),
                "duplicates": own.duplicates,
                "left_out": own.left_out,
                "sha256": own.identity(),
            }
            for kind, own in about.items()
        },
        "models": models,
        "table": model_table(models, sets["prompts"].categories() if "prompts" in sets else []),
        "notes": [*inputs.notes, *_notes(inputs, models)],
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


def _measured(name: str, inputs: Inputs, answers: Mapping[str, Answers]) -> dict[str, Any]:
    """All that is known of a model: `overall`, `categories`, `helpful` and the like."""
    settings, model, baseline = inputs.settings, inputs.models[name], inputs.baseline
    bootstrap = Bootstrap(settings.n_boot, settings.seed, settings.confidence)
    measured: dict[str, Any] = {
        "source": model.name,
        "weights": model.weights,
        "vocabulary": inputs.vocabularies[name],
    }
    for kind, own in answers.items():
        if kind == "over_refusal":
            pairs = [(a.prompt_id, a.answer) for a in own[name]]
            measured[kind] = over_refusal(inputs.sets[kind], pairs, bootstrap)
            continue
        options: dict[str, Any] = {
            "bootstrap": bootstrap,
            "severities": [a.cost for each in own.values() for a in each if (a.cost or 0) > 0],
        }
        metrics = answer_metrics(own[name], own[baseline], **options)
        if kind == "prompts":
            measured["overall"] = metrics
            measured["categories"] = category_rows(own[name], own[baseline], **options)
        measured["helpful"] = metrics  # of `helpful_prompts`, which come later, where there are any
    if inputs.risks is not None:
        read = json.loads((inputs.folder / "r_judge" / f"{name}.json").read_text(encoding="utf-8"))
        scores = RiskScores(**read)
        threshold = settings.threshold
        overall, scenarios = identify_risks(
            inputs.risks, scores, threshold=threshold, bootstrap=bootstrap
        )
        measured["r_judge"] = {"overall": overall, "by_scenario": scenarios, "cut": scores.cut}
    return measured


def _notes(inputs: Inputs, models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader must know to read the dashes and the numbers."""
    sets, baseline = inputs.sets, inputs.baseline
    notes = []
    for kind, what in (("reward", "helpfulness"), ("cost", "safety and the tail")):
        if kind not in inputs.scorers and {"prompts", "helpful_prompts"} & sets.keys():
            notes.append(f"No --scorer_{kind} was given: {what} was not measured.")
    if "reward" in inputs.scorers and "prompts" in sets and "helpful_prompts" not in sets:
        notes.append("Helpfulness was measured on --prompts, for no --helpful_prompts were given.")
    if "prompts" in sets:
        own = inputs.vocabularies
        if odd := ", ".join(name for name in own if own[name] != own[baseline]):
            notes.append(
                f"{odd}: another vocabulary than {baseline}'s, so that KL and SRR to it are not "
                "defined."
            )
        categories = sets["prompts"].categories().items()
        if single := ", ".join(name for name, own in categories if len(own) == 1):
            notes.append(f"A single prompt, so no interval and no figure: {single}.")
    if "over_refusal" in sets:
        notes.append("Refusals are found by a rule on how answers begin, in English.")
    for name, model in models.items():
        if inputs.risks is not None and (cut := model["r_judge"]["cut"]):
            notes.append(
                f"{name}: {cut} of {len(inputs.risks)} records of R-Judge were cut to fit, their "
                "oldest part left out."
            )
    return notes
