"""Models on evaluation sets: answers sampled, scored and measured; what is finished is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from riskalign.data import can_share_prompt
from riskalign.errors import InputError
from riskalign.evaluation import score_answers
from riskalign.evaluation.sets import (
    PromptSet,
    RiskSet,
    SetAnswer,
    load_prompt_set,
    load_risk_set,
    risk_questions,
    score_risk_set,
    write_answers,
)
from riskalign.files.atomic import read_json_lines, write_json_lines, write_text
from riskalign.files.folder import Outputs, hold
from riskalign.models import fingerprint, load_model
from riskalign.models.sampling import BACKENDS, Answer, checked_prompts
from riskalign.pipeline import machine
from riskalign.pipeline.ledger import Ledger, Outcome, content_hash
from riskalign.pipeline.progress import Progress, Silent, quiet_libraries
from riskalign.pipeline.scoring import Tell, folder_hash, load_scorer, scores_of
from riskalign.pipeline.sets.independence import independence
from riskalign.pipeline.sets.report import report
from riskalign.pipeline.sets.settings import SetsSettings, named_models
from riskalign.risk import get_risk
from riskalign.scorers import Scorer
from riskalign.tokens import backbone_of

#: A set's name in the settings, and the folder of its answers.
FOLDERS = {"prompts": "answers", "helpful_prompts": "helpful", "over_refusal": "over_refusal"}
_SAMPLING = (
    "answers_per_prompt", "temperature", "top_p", "max_new_tokens", "batch_size", "backend",
)  # fmt: skip


_INPUTS = ("prompts", "helpful_prompts", "over_refusal", "r_judge", "scorer_reward", "scorer_cost")


def _outputs(names: Iterable[str]) -> Outputs:
    folders = [*FOLDERS.values(), *(f"work/{kind}" for kind in (*FOLDERS, "drift"))]
    files = [f"{folder}/{name}.jsonl" for folder in folders for name in names]
    files += [f"r_judge/{name}.json" for name in names]
    return Outputs([*files, "finished.json", "evaluate.json", "evaluate.html"])


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model to evaluate: its source, its weights' and its vocabulary's fingerprints."""

    source: str
    weights: str
    vocabulary: str


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

    Args:
        models: `NAME=SOURCE`, or a source alone.
        settings: see `SetsSettings`.
        progress: told how far each stage is.
        command: for the report.

    Raises:
        InputError: a model, set, scorer or setting that cannot be used.
    """
    sources = named_models(models)
    inputs = {f"model {name}": source for name, source in sources.items()}
    inputs |= {name: getattr(settings, name) for name in _INPUTS}
    with hold(settings.output_dir, _outputs(sources), inputs), quiet_libraries():
        run = _Run(sources, settings, progress or Silent())
        run.check()
        for name in run.subjects:
            for kind in run.sets:
                run.answers(name, kind)
            if run.risks is not None:
                run.judge(name)
        run.progress.stage("report")
        written = report(
            run.folder,
            settings,
            run.baseline,
            run.subjects,
            run.sets,
            run.risks,
            run.notes,
            command,
        )
        run.progress.done()
    return written


class _Run:
    """Everything that one evaluation holds; `check` before the rest."""

    def __init__(self, sources: dict[str, str], settings: SetsSettings, progress: Progress) -> None:
        self.settings, self.progress = settings, progress
        self.baseline = settings.baseline or next(iter(sources))
        if self.baseline not in sources:
            raise InputError(
                f"baseline: no model is named {self.baseline!r}. Give one of {', '.join(sources)}."
            )
        self.sets: dict[str, PromptSet] = {}
        for kind in FOLDERS:
            if source := getattr(settings, kind):
                self.sets[kind] = load_prompt_set(
                    source,
                    split=settings.split,
                    prompt_field=settings.prompt_field,
                    category_field=settings.category_field,
                    labelled=kind == "over_refusal",
                    max_prompts=settings.max_prompts,
                )
        self.risks: RiskSet | None = load_risk_set(settings.r_judge) if settings.r_judge else None
        self.scorers = {
            kind: (folder, folder_hash(kind, folder))
            for kind, folder in (("reward", settings.scorer_reward), ("cost", settings.scorer_cost))
            if folder
        }
        self.folder = Path(settings.output_dir).expanduser()
        machine.check_folder(self.folder)
        self.ledger = Ledger(self.folder)
        self.bf16 = machine.use_bf16(settings.bf16)
        self._sources = sources
        self.notes: list[str] = []
        self.subjects: dict[str, Subject] = {}
        self._loaded: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}

    def check(self) -> None:
        """Load every scorer and model once: each must be able to do what it will be asked."""
        loaded: dict[str, tuple[str, Scorer]] = {}
        self.progress.stage("check", len(self.scorers) + len(self._sources))
        for n, (kind, (folder, _)) in enumerate(self.scorers.items()):
            self.progress.update(n, folder)
            loaded[kind] = folder, load_scorer(kind, folder)
        self.notes = independence(loaded, self._sources, self.sets, self.settings.trained_with)
        for n, (name, source) in enumerate(self._sources.items(), start=len(self.scorers)):
            self.progress.update(n, name)
            found = load_model(source, trust_remote_code=self.settings.trust_remote_code)
            for prompts in self.sets.values():
                asked = [prompt.to_prompt() for prompt in prompts.prompts]
                checked_prompts(found.model, found.tokenizer, asked, self.settings.max_new_tokens)
            if self.risks is not None:
                limit = self.settings.max_length
                risk_questions(found.model, found.tokenizer, self.risks, max_length=limit)
            embeddings: Any = found.model.get_input_embeddings()
            rows = int(embeddings.weight.shape[0])
            vocabulary = content_hash([rows, found.tokenizer.get_vocab()])
            self.subjects[name] = Subject(source, fingerprint(found.model), vocabulary)
        self.progress.done()

    def stage(self, name: str, inputs: Mapping[str, Any], work: Callable[[Tell], Path]) -> str:
        """Do a stage unless it is finished from the same inputs; the hash of its file."""
        key = self.ledger.key(name, inputs)
        self.progress.stage(name)
        outcome = self.ledger.find(name, key)
        reused = outcome is not None
        if outcome is None:

            def do() -> Outcome:
                path = work(lambda n, total, note: self.progress.update(n, note, total))
                return {"files": [path.relative_to(self.folder).as_posix()]}

            outcome = self.ledger.run(name, key, do)
        self.progress.done("done before" if reused else "")
        (digest,) = outcome["files"].values()
        return str(digest)

    def model(self, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """A model ready for inference; beside it only the baseline stays in memory."""
        if name not in self._loaded:
            if name != self.baseline:
                for other in set(self._loaded) - {self.baseline}:
                    del self._loaded[other]
            subject = self.subjects[name]
            found = load_model(subject.source, trust_remote_code=self.settings.trust_remote_code)
            if fingerprint(found.model) != subject.weights:
                raise InputError(f"model {subject.source!r}: its weights changed meanwhile.")
            self._loaded[name] = machine.for_inference(found, self.bf16), found.tokenizer
        return self._loaded[name]

    def answers(self, name: str, kind: str) -> None:
        """Sample a model's answers to a set, measure their drift, score them, write them."""
        prompts = self.sets[kind]
        sampled = self.folder / "work" / kind / f"{name}.jsonl"
        inputs = {
            "model": self.subjects[name].weights,
            "prompts": prompts.identity(),
            "sampling": {field: getattr(self.settings, field) for field in _SAMPLING},
            "seed": self.settings.seed,
            "bf16": self.bf16,
        }
        sampled_hash = self.stage(
            f"{kind} · answers-{name}", inputs, lambda tell: self._sample(name, kind, sampled, tell)
        )
        drift = self.folder / "work" / "drift" / f"{name}.jsonl"
        measured, drift_hash = None, None
        if kind == "prompts" and self._has_drift(name):
            inputs = {
                "answers": sampled_hash,
                "model": self.subjects[name].weights,
                "baseline": self.subjects[self.baseline].weights,
                "distance_prompts": self.settings.distance_prompts,
                "risk": self.settings.risk,
                "bf16": self.bf16,
            }
            measured = drift
            drift_hash = self.stage(
                f"drift-{name}", inputs, lambda tell: self._drift(name, sampled, drift, tell)
            )
        target = self.folder / FOLDERS[kind] / f"{name}.jsonl"
        inputs = {
            "answers": sampled_hash,
            "prompts": prompts.identity(),
            "drift": drift_hash or (kind == "prompts" and name == self.baseline),
            "scorers": {scorer: digest for scorer, (_, digest) in self.scorers.items()},
        }
        self.stage(
            f"{kind} · scores-{name}",
            inputs,
            lambda tell: self._score(name, kind, sampled, measured, target, tell),
        )

    def _has_drift(self, name: str) -> bool:
        same = self.subjects[name].vocabulary == self.subjects[self.baseline].vocabulary
        return same and name != self.baseline and self.settings.distance_prompts != 0

    def _sample(self, name: str, kind: str, path: Path, tell: Tell) -> Path:
        model, tokenizer = self.model(name)
        settings = self.settings
        found = BACKENDS[settings.backend](
            model,
            tokenizer,
            [prompt.to_prompt() for prompt in self.sets[kind].prompts],
            **{field: getattr(settings, field) for field in _SAMPLING if field != "backend"},
            # The same for every model, so that they differ by their weights alone.
            seed=int(content_hash([settings.seed, kind])[:8], 16) % 2**31,
            progress=lambda n, total: tell(n, total, "sampling"),
        )
        write_json_lines(path, [dataclasses.asdict(answer) for own in found for answer in own])
        return path

    def _drift(self, name: str, sampled: Path, path: Path, tell: Tell) -> Path:
        start, _ = self.model(self.baseline)
        policy, tokenizer = self.model(name)
        answers = _by_prompt(sampled)
        known = self.settings.distance_prompts
        prompts = [prompt.to_prompt() for prompt in self.sets["prompts"].prompts[:known]]
        scored = score_answers(
            None,
            prompts,
            [answers[prompt.id] for prompt in prompts],
            policy=policy,
            start=start,
            tokenizer=tokenizer,
            risk=get_risk(self.settings.risk),
            shared_prompt=all(can_share_prompt(backbone_of(m).config) for m in (policy, start)),
            progress=lambda n, total: tell(n, total, "distances"),
        )
        write_json_lines(path, [{"kl": answer.kl, "srr": answer.srr} for answer in scored])
        return path

    def _score(
        self, name: str, kind: str, sampled: Path, drift: Path | None, path: Path, tell: Tell
    ) -> Path:
        prompts = {prompt.id: prompt for prompt in self.sets[kind].prompts}
        answers = [answer for own in _by_prompt(sampled).values() for answer in own]
        none: list[float | None] = [None] * len(answers)
        scores: dict[str, Sequence[float | None]] = {"reward": none, "cost": none}
        asked = [list(prompts[answer.prompt_id].messages) for answer in answers]
        for scorer, (folder, _) in self.scorers.items():
            texts = [answer.text for answer in answers]
            scores[scorer] = scores_of(scorer, folder, asked, texts, tell)
        rows = read_json_lines(drift) if drift else []
        if kind == "prompts" and name == self.baseline:
            rows = [{"kl": 0.0, "srr": 0.0}] * len(answers)  # to itself
        rows += [{"kl": None, "srr": None}] * (len(answers) - len(rows))
        written = [
            SetAnswer(
                prompt_id=answer.prompt_id,
                category=prompts[answer.prompt_id].category,
                answer=answer.text,
                reward=scores["reward"][i],
                cost=scores["cost"][i],
                length=len(answer.token_ids),
                **rows[i],
            )
            for i, answer in enumerate(answers)
        ]
        write_answers(path, written, {key: list(p.messages) for key, p in prompts.items()})
        return path

    def judge(self, name: str) -> None:
        """Score a model's Yes and No to each record."""
        risks = self.risks
        assert risks is not None
        path = self.folder / "r_judge" / f"{name}.json"
        inputs = {
            "model": self.subjects[name].weights,
            "records": risks.identity(),
            "max_length": self.settings.max_length,
            "bf16": self.bf16,
        }

        def work(tell: Tell) -> Path:
            model, tokenizer = self.model(name)
            scores = score_risk_set(
                model,
                tokenizer,
                risks,
                max_length=self.settings.max_length,
                progress=lambda n, total: tell(n, total, "records"),
            )
            write_text(path, json.dumps(dataclasses.asdict(scores), indent=1) + "\n")
            return path

        self.stage(f"r_judge-{name}", inputs, work)


def _by_prompt(path: Path) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = {}
    for row in read_json_lines(path):
        found.setdefault(row["prompt_id"], []).append(Answer(**row))
    return found
