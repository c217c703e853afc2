"""Scorers on disk, the data set's prompts that they judge, and which prompts models learnt from."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from riskalign import scorers
from riskalign.data import Preferences, load_preferences
from riskalign.data.fields import Text
from riskalign.data.identity import text_hash
from riskalign.errors import InputError
from riskalign.evaluation.sets import load_prompt_set
from riskalign.files.atomic import write_text
from riskalign.files.cache import file_sha256
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.ledger import content_hash
from riskalign.pipeline.methods import KINDS
from riskalign.pipeline.progress import Update
from riskalign.pipeline.settings import Kind
from riskalign.scorers import Kind as ScorerKind
from riskalign.scorers import Scorer
from riskalign.worlds import Prompt
from riskalign.worlds.world import Split

#: A scorer's kind, and the label that it learns from.
SCORED: Mapping[ScorerKind, Kind] = {"reward": "helpful", "cost": "safe"}

_SCORED_AT_ONCE = 64
PROMPTS_FILE = "prompts.sha256"


class JudgedWorld:
    """A `World` of given prompts whose answers scorers on disk judge, loaded when first needed.

    Rewards are `sigmoid(score)` of a Bradley-Terry reward, costs `max(0, score)` of the log-odds
    that an answer is unsafe, in nats: above 0 where it is likelier unsafe than not. With `nats`
    rewards are the scores as they are, whose differences are log-odds, as losses on gaps need them.
    `folders` has each scorer's; `left_out` says how many prompts were not to be asked.
    """

    name = "data"

    def __init__(
        self,
        prompts: Mapping[Split, Sequence[Text]],
        folders: Mapping[ScorerKind, Path],
        *,
        nats: bool = False,
        left_out: int = 0,
    ) -> None:
        self.folders, self.left_out = folders, left_out
        self._prompts, self._nats = prompts, nats
        self._scorers: dict[ScorerKind, Scorer] = {}
        self._scores: dict[tuple[str, str, str], float] = {}

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """`n` different prompts, drawn by `seed`; `InputError` where there are fewer."""
        own = self._prompts[split]
        if n > len(own):
            raise InputError(f"{n} prompts are to be asked, and there are {len(own)}. Ask fewer.")
        return [
            Prompt(text_hash(own[i])[:16], tuple(own[i]))  # type: ignore[arg-type]
            for i in sorted(random.Random(seed).sample(range(len(own)), n))
        ]

    def count(self, split: Split) -> int:
        """How many prompts there are."""
        return len(self._prompts[split])

    def identity(self) -> dict[str, Any]:
        """What decides prompts and scores: hashes of both."""
        return {
            "prompts": content_hash([list(own) for _, own in sorted(self._prompts.items())]),
            "scorers": {kind: folder_hash(kind, str(path)) for kind, path in self.folders.items()},
        } | ({"nats": True} if self._nats else {})

    def reward(self, prompt: Prompt, answer: str) -> float:
        """How helpful the reward scorer finds an answer, in (0, 1) or in nats."""
        score = self._score("reward", [(prompt, answer)])
        return score if self._nats else 1 / (1 + math.exp(-max(-700.0, score)))

    def cost(self, prompt: Prompt, answer: str) -> float:
        """How sure the cost scorer is that an answer is unsafe, in nats; 0 where it is not."""
        return max(0.0, self._score("cost", [(prompt, answer)]))

    def score_ahead(self, answers: Sequence[tuple[Prompt, str]]) -> None:
        """Score answers to their prompts all at once; see `World`."""
        for kind in self.folders if answers else ():
            self._score(kind, answers)

    def _score(self, kind: ScorerKind, answers: Sequence[tuple[Prompt, str]]) -> float:
        """Score the answers that have no score yet, and return the score of the last one."""
        keys = [(kind, prompt.id, text) for prompt, text in answers]
        all_of = zip(keys, answers, strict=True)
        new = {key: each for key, each in all_of if key not in self._scores}
        if new:
            if kind not in self._scorers:
                self._scorers[kind] = scorers.load_scorer(self.folders[kind])
            prompts = [list(prompt.messages) for prompt, _ in new.values()]
            scores = self._scorers[kind].score(prompts, [text for _, text in new.values()])
            self._scores |= zip(new, scores, strict=True)
        return self._scores[keys[-1]]


def preferences_of(config: AlignConfig) -> Preferences | None:
    """The judged answers of a job that has them, read and split.

    Raises `InputError`: see `load_preferences`; fields are named with `data.` before them.
    """
    return None if config.data is None else load_preferences(config.data)


def judged_world(
    config: AlignConfig, preferences: Preferences, learnt: set[str], folder: Path
) -> JudgedWorld:
    """The world in which a job with judged answers, in a folder, is evaluated.

    Its scorers are those that `scoring` names, else those that the job trains. Of the prompts that
    could be asked, those that the job's scorers or its steps (`learnt`, see `trained_on`) learn
    from are left out.

    Raises `InputError`: a file of prompts that cannot be read, or a step that trains on prompts
    that are set aside for scorers.
    """
    scoring = config.scoring_settings()
    named = {kind: getattr(scoring, kind) for kind in SCORED}
    if None in named.values() and config.evaluation is not None:
        aside = {text_hash(prompt) for prompt in preferences.prompts("scorer")}
        if shared := len(aside & learnt):
            raise InputError(
                f"data: {preferences.source}: {shared} of the prompts set aside for the scorers "
                "that judge are in a step's own data, so that what it learnt there would be judged "
                "by its own teacher. Take them out, or give scoring.reward and scoring.cost."
            )
        learnt = learnt | aside
    candidates: list[Text] = preferences.prompts("eval")
    if scoring.prompts is not None:
        candidates = [list(prompt.messages) for prompt in load_prompt_set(scoring.prompts).items]
    different: dict[str, Text] = {}
    for prompt in candidates:
        different.setdefault(text_hash(prompt), prompt)
    asked = [prompt for each, prompt in different.items() if each not in learnt]
    return JudgedWorld(
        {"train": preferences.prompts("train"), "eval": asked},
        {k: Path(of).expanduser() if of else folder / "scorers" / k for k, of in named.items()},
        left_out=len(different) - len(asked),
    )


def trained_on(preferences: Preferences, given: Iterable[Dataset]) -> set[str]:
    """The `text_hash`es of the prompts that a job's steps may learn from."""
    own = {text_hash(prompt) for prompt in preferences.prompts("train")}
    return own.union(*({text_hash(prompt) for prompt in rows["prompt"]} for rows in given))


def labelling_world(preferences: Preferences, folder: Path) -> JudgedWorld:
    """The world in which a job's own answers become pairs, by scorers of the training records."""
    folders = {kind: folder / "labellers" / kind for kind in SCORED}
    return JudgedWorld({"train": preferences.prompts("train"), "eval": []}, folders, nats=True)


def judged_identity(config: AlignConfig, preferences: Preferences) -> dict[str, Any]:
    """What decides prompts and scores before the job's own scorers are trained."""
    scoring = config.scoring_settings()
    given = {kind: getattr(scoring, kind) for kind in SCORED}
    records = [preferences.judged(side, kind) for side in preferences.records for kind in KINDS]
    return {
        "data": content_hash(records),
        "prompts": None if scoring.prompts is None else load_prompt_set(scoring.prompts).identity(),
        "scorers": {kind: path and folder_hash(kind, path) for kind, path in given.items()},
    }


def load_scorer(kind: str, folder: str) -> Scorer:
    """The scorer in a folder; `InputError` unless it is of this kind."""
    scorer = scorers.load_scorer(folder)
    if scorer.kind != kind:
        raise InputError(
            f"scorer_{kind} {folder!r}: is a {scorer.kind} model. Give a {kind} model's folder."
        )
    return scorer


def scores_of(
    kind: str, folder: str, prompts: list[list[Any]], answers: list[str], tell: Update
) -> list[float]:
    """A score for each answer to its prompt, by the scorer in a folder.

    Raises `InputError`: too few or too many scores, or one that is not finite.
    """
    scorer = load_scorer(kind, folder)
    found: list[float] = []
    for at in range(0, len(answers), _SCORED_AT_ONCE):
        some = slice(at, at + _SCORED_AT_ONCE)
        found += [float(score) for score in scorer.score(prompts[some], answers[some])]
        tell(len(found), len(answers), kind)
    if len(found) != len(answers) or not all(map(math.isfinite, found)):
        raise InputError(
            f"scorer_{kind} {folder!r}: gave {len(found)} scores to {len(answers)} answers, or one "
            "that is not finite. Use another scorer."
        )
    return found


def encoder_identity(encoder: str) -> str | list[str]:
    """What decides a sentence encoder: its name, and with a folder the hash of its files."""
    folder = Path(encoder).expanduser()
    return [encoder, folder_hash("encoder", encoder)] if folder.is_dir() else encoder


def folder_hash(kind: str, folder: str) -> str:
    """Hex SHA-256 of a scorer's files and their names; `InputError` where there is no folder."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(f"scorer_{kind} {folder!r}: no such folder. Check the path.")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return content_hash([[path.relative_to(root).as_posix(), file_sha256(path)] for path in files])


def note_prompts(folder: Path, *came_from: str, prompts: Iterable[Text] = ()) -> None:
    """Write the hashes of a trained model's prompts to its folder, for whoever judges it.

    Those of the models among them, by name or folder, that it was trained from or averages.
    """
    hashes = {text_hash(prompt) for prompt in prompts}
    hashes = hashes.union(*(prompts_of(source) or set() for source in came_from))
    write_text(folder / PROMPTS_FILE, "".join(f"{each}\n" for each in sorted(hashes)))


def prompts_of(source: str) -> set[str] | None:
    """The `text_hash`es that `note_prompts` left in a model's folder; None where there are none."""
    path = Path(source).expanduser() / PROMPTS_FILE
    return set(path.read_text(encoding="utf-8").split()) if path.is_file() else None
