"""Models on evaluation sets: answers sampled, scored and measured; what is finished is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from riskalign.evaluation import score_answers
from riskalign.evaluation.sets import SetAnswer, score_risk_set
from riskalign.files.atomic import read_json_lines, write_json_lines, write_text
from riskalign.files.folder import Outputs, hold
from riskalign.models.backends import BACKENDS
from riskalign.models.sampling import Answer
from riskalign.models.vllm import aside
from riskalign.pipeline import machine
from riskalign.pipeline.job import InMemory
from riskalign.pipeline.judged import SCORED, scores_of
from riskalign.pipeline.ledger import Ledger, Outcome, content_hash
from riskalign.pipeline.measure import can_share
from riskalign.pipeline.progress import Progress, Silent, Update, quiet_libraries
from riskalign.pipeline.sets.inputs import (
    FOLDERS,
    Inputs,
    SetsSettings,
    load_inputs,
    named_models,
)
from riskalign.pipeline.sets.report import report
from riskalign.risk import get_risk


def evaluate_sets(
    models: Sequence[str],
    settings: SetsSettings,
    *,
    progress: Progress | None = None,
    command: str = "riskalign evaluate",
) -> tuple[Path, Path]:
    """Evaluate models on the sets that the settings name; the paths of `evaluate.json` and `.html`.

    Models, sets and scorers are all loaded and checked first. Each model's answers, scores and
    risk judgements are stages of their own, which are not made again from the same weights,
    prompts and settings.

    `models` are `NAME=SOURCE`, or a source alone; the report shows `command`.

    Raises `InputError`: a model, set, scorer or setting that cannot be used.
    """
    sources, progress = named_models(models), progress or Silent()
    scorers = [f"scorer_{kind}" for kind in SCORED]
    read = {name: getattr(settings, name) for name in (*FOLDERS, "r_judge", *scorers)}
    read |= {f"model {name}": source for name, source in sources.items()}
    with hold(settings.output_dir, _outputs(sources), read), quiet_libraries():
        inputs = load_inputs(sources, settings, progress)
        stages = _Stages(inputs, progress)
        for name in sources:
            for kind in inputs.sets:
                stages.answers(name, kind)
            if inputs.risks is not None:
                stages.judge(name)
        progress.stage("report")
        written = report(inputs, command)
        progress.done()
    return written


def _outputs(names: Iterable[str]) -> Outputs:
    folders = [*FOLDERS.values(), *(f"work/{kind}" for kind in (*FOLDERS, "drift"))]
    files = [f"{folder}/{name}.jsonl" for folder in folders for name in names]
    files += [f"r_judge/{name}.json" for name in names]
    return Outputs([*files, "finished.json", "evaluate.json", "evaluate.html"])


class _Stages:
    """The stages of one evaluation, each of which leaves one file."""

    def __init__(self, inputs: Inputs, progress: Progress) -> None:
        self.inputs, self.progress = inputs, progress
        self.ledger = Ledger(inputs.folder)
        self.bf16 = machine.use_bf16(inputs.settings.bf16)
        self.models = InMemory(inputs.models, self.bf16, always=inputs.baseline)

    def stage(
        self, name: str, path: str, made_from: Mapping[str, Any], work: Callable[[Update], Any]
    ) -> str:
        """Write what `work` gives unless it is finished from the same; the hash of the file.

        Rows are written a line each, an object as one.
        """

        def write(key: str, update: Update) -> Outcome:
            made, target = work(update), self.inputs.folder / path
            if isinstance(made, dict):
                write_text(target, json.dumps(made, indent=1) + "\n")
            else:
                write_json_lines(target, made)
            return {"files": [path]}

        return str(self.ledger.stage(name, made_from, self.progress, write)[2]["files"][path])

    def answers(self, name: str, kind: str) -> None:
        """Sample a model's answers to a set, measure their drift, score them, write them."""
        settings, baseline = self.inputs.settings, self.inputs.baseline
        weights = {each: model.weights for each, model in self.inputs.models.items()}
        prompts = self.inputs.sets[kind].identity()
        sampled, drift = f"work/{kind}/{name}.jsonl", f"work/drift/{name}.jsonl"
        answers = self.stage(
            f"{kind} · answers-{name}",
            sampled,
            {
                "model": weights[name],
                "prompts": prompts,
                "sampling": {**settings.sampling(), "backend": settings.backend},
                "seed": settings.seed,
                "bf16": self.bf16,
            },
            lambda tell: self._sample(name, kind, tell),
        )
        to_itself = kind == "prompts" and name == baseline
        same = self.inputs.vocabularies[name] == self.inputs.vocabularies[baseline]
        drift_hash = ""
        if kind == "prompts" and not to_itself and same and settings.distance_prompts != 0:
            drift_hash = self.stage(
                f"drift-{name}",
                drift,
                {
                    "answers": answers,
                    "model": weights[name],
                    "baseline": weights[baseline],
                    "distance_prompts": settings.distance_prompts,
                    "risk": settings.risk,
                    "bf16": self.bf16,
                },
                lambda tell: self._drift(name, sampled, tell),
            )
        self.stage(
            f"{kind} · scores-{name}",
            f"{FOLDERS[kind]}/{name}.jsonl",
            {
                "answers": answers,
                "prompts": prompts,
                "drift": drift_hash or to_itself,
                "scorers": {scorer: digest for scorer, (_, digest) in self.inputs.scorers.items()},
            },
            lambda tell: self._score(kind, sampled, drift if drift_hash else "", to_itself, tell),
        )

    def judge(self, name: str) -> None:
        """Score a model's Yes and No to each record."""
        risks = self.inputs.risks
        assert risks is not None
        self.stage(
            f"r_judge-{name}",
            f"r_judge/{name}.json",
            {
                "model": self.inputs.models[name].weights,
                "records": risks.identity(),
                "max_length": self.inputs.settings.max_length,
                "bf16": self.bf16,
            },
            lambda tell: self._judge(name, tell),
        )

    def _judge(self, name: str, tell: Update) -> dict[str, Any]:
        (model,), longest = self.models(name), self.inputs.settings.max_length
        assert self.inputs.risks is not None
        scores = score_risk_set(
            model.model,
            model.tokenizer,
            self.inputs.risks,
            max_length=longest,
            progress=lambda n, total: tell(n, total, "records"),
        )
        return asdict(scores)

    def _read(self, path: str) -> list[Any]:
        return read_json_lines(self.inputs.folder / path)

    def _sample(self, name: str, kind: str, tell: Update) -> list[dict[str, Any]]:
        settings, (model,) = self.inputs.settings, self.models(name)
        with aside(*self.models.kept() if settings.backend == "vllm" else ()):
            answers = BACKENDS[settings.backend](
                model.model,
                model.tokenizer,
                self.inputs.sets[kind].asked(),
                **settings.sampling(),
                **settings.of_backend(),
                # The same for every model, so that they differ by their weights alone.
                seed=int(content_hash([settings.seed, kind])[:8], 16) % 2**31,
                progress=lambda n, total: tell(n, total, "sampling"),
            )
        return [asdict(answer) for own in answers for answer in own]

    def _drift(self, name: str, sampled: str, tell: Update) -> list[dict[str, float]]:
        start, policy = self.models(self.inputs.baseline, name)
        answers: dict[str, list[Answer]] = {}
        for row in self._read(sampled):
            answers.setdefault(row["prompt_id"], []).append(Answer(**row))
        prompts = self.inputs.sets["prompts"].asked()[: self.inputs.settings.distance_prompts]
        scored = score_answers(
            None,
            prompts,
            [answers[prompt.id] for prompt in prompts],
            policy=policy.model,
            start=start.model,
            tokenizer=policy.tokenizer,
            risk=get_risk(self.inputs.settings.risk),
            shared_prompt=can_share(policy.model, start.model),
            progress=lambda n, total: tell(n, total, "distances"),
        )
        return [{"kl": answer.kl, "srr": answer.srr} for answer in scored]

    def _score(
        self, kind: str, sampled: str, drift: str, to_itself: bool, tell: Update
    ) -> list[dict[str, Any]]:
        """Answers with their scores and, as far as it was measured, their drift."""
        prompts = {prompt.id: prompt for prompt in self.inputs.sets[kind].items}
        answers = [Answer(**row) for row in self._read(sampled)]
        asked = [list(prompts[answer.prompt_id].messages) for answer in answers]
        texts = [answer.text for answer in answers]
        scores = {
            scorer: scores_of(scorer, folder, asked, texts, tell)
            for scorer, (folder, _) in self.inputs.scorers.items()
        }
        drifts = self._read(drift) if drift else []
        if to_itself:
            drifts = [{"kl": 0.0, "srr": 0.0}] * len(answers)
        rows = []
        for i, answer in enumerate(answers):
            prompt = prompts[answer.prompt_id]
            scored = SetAnswer(
                prompt.id,
                prompt.category,
                answer.text,
                length=len(answer.token_ids),
                **{scorer: own[i] for scorer, own in scores.items()},
                **(drifts[i] if i < len(drifts) else {}),
            )
            rows.append({"prompt": asked[i], **vars(scored)})
        return rows
