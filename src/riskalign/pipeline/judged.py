"""A data set's prompts and learnt scorers, where there is no world whose programs could score."""

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from riskalign.baselines.scorer_data import Kind as ScorerKind
from riskalign.data import Preferences, load_preferences
from riskalign.data.identity import text_hash
from riskalign.data.schema import Text
from riskalign.environments import Prompt
from riskalign.environments.world import Split
from riskalign.errors import InputError
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.ledger import content_hash
from riskalign.pipeline.scoring import folder_hash
from riskalign.pipeline.settings import Kind
from riskalign.scorers import Scorer, check_independent, check_unseen, load_scorer
from riskalign.scorers.card import read_card
from riskalign.sets import load_prompt_set

_KINDS: tuple[Kind, ...] = ("helpful", "safe")
#: A scorer's kind, and the label that it learns from.
SCORED: Mapping[ScorerKind, Kind] = {"reward": "helpful", "cost": "safe"}


class JudgedWorld:
    """A `World` of given prompts whose answers scorers on disk judge, loaded when first needed.

    Rewards are `sigmoid(score)` of a Bradley-Terry reward, costs `max(0, score)` of the log-odds
    that an answer is unsafe, in nats: above 0 where it is likelier unsafe than not, and the larger
    the surer.
    """

    name = "data"

    def __init__(
        self, prompts: Mapping[Split, Sequence[Text]], folders: Mapping[ScorerKind, Path]
    ) -> None:
        self._prompts = prompts
        self._folders = folders
        self._scorers: dict[ScorerKind, Scorer] = {}
        self._scores: dict[tuple[str, str, str], float] = {}

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """`n` different prompts, drawn by `seed`; `InputError` where there are fewer."""
        own = self._prompts[split]
        if n > len(own):
            raise InputError(
                f"evaluation.prompts is {n}, and there are {len(own)} held-out prompts. Lower it, "
                "raise data.eval_fraction, or give scoring.prompts."
                if split == "eval"
                else f"sampling.prompts is {n}, and there are {len(own)} training prompts. Lower "
                "it, data.eval_fraction or data.scorer_fraction."
            )
        return [
            Prompt(text_hash(own[i])[:16], tuple(own[i]))  # type: ignore[arg-type]
            for i in sorted(random.Random(seed).sample(range(len(own)), n))
        ]

    @property
    def folders(self) -> Mapping[ScorerKind, Path]:
        """Each scorer's folder."""
        return self._folders

    def identity(self) -> dict[str, Any]:
        """What decides prompts and scores: hashes of both."""
        return {
            "prompts": content_hash([list(own) for _, own in sorted(self._prompts.items())]),
            "scorers": {kind: folder_hash(kind, str(path)) for kind, path in self._folders.items()},
        }

    def reward(self, prompt: Prompt, answer: str) -> float:
        """How helpful the reward scorer finds an answer, in (0, 1)."""
        return 1 / (1 + math.exp(-max(-700.0, self._score("reward", prompt, answer))))

    def cost(self, prompt: Prompt, answer: str) -> float:
        """How sure the cost scorer is that an answer is unsafe, in nats; 0 where it is not."""
        return max(0.0, self._score("cost", prompt, answer))

    def _score(self, kind: ScorerKind, prompt: Prompt, answer: str) -> float:
        key = kind, prompt.id, answer
        if key not in self._scores:
            if kind not in self._scorers:
                self._scorers[kind] = load_scorer(self._folders[kind])
            scorer = self._scorers[kind]
            self._scores[key] = float(scorer.score([list(prompt.messages)], [answer])[0])
        return self._scores[key]


def preferences_of(config: AlignConfig) -> Preferences | None:
    """The judged answers of a job that has them, read and split.

    Raises:
        InputError: see `load_preferences`; fields are named with `data.` before them.
    """
    return None if config.data is None else load_preferences(config.data)


def judged_world(config: AlignConfig, preferences: Preferences, folder: Path) -> JudgedWorld:
    """The world in which a job with judged answers is evaluated.

    Its scorers are those that `scoring` names, else those that the job trains in `folder`. Of the
    prompts that `scoring` names, those that steps or scorers learn from are left out.

    Raises:
        InputError: a file of prompts that cannot be read.
    """
    scoring = config.scoring_settings()
    asked: list[Text] = preferences.prompts("eval")
    if scoring.prompts is not None:
        asked = [list(prompt.messages) for prompt in load_prompt_set(scoring.prompts).prompts]
        learnt = {text_hash(p) for side in ("train", "scorer") for p in preferences.prompts(side)}
        asked = [prompt for prompt in asked if text_hash(prompt) not in learnt]
    folders = {
        kind: Path(given).expanduser()
        if (given := getattr(scoring, kind)) is not None
        else folder / "scorers" / kind
        for kind in SCORED
    }
    return JudgedWorld({"train": preferences.prompts("train"), "eval": asked}, folders)


def labelling_world(preferences: Preferences, folder: Path) -> JudgedWorld:
    """The world in which a job's own answers become pairs, by scorers of the training records."""
    folders = {kind: folder / "labellers" / kind for kind in SCORED}
    return JudgedWorld({"train": preferences.prompts("train"), "eval": []}, folders)


def judged_identity(config: AlignConfig, preferences: Preferences) -> dict[str, Any]:
    """What decides prompts and scores before the job's own scorers are trained."""
    scoring = config.scoring_settings()
    given = {kind: getattr(scoring, kind) for kind in SCORED}
    return {
        "data": content_hash(
            [preferences.judged(side, kind) for side in preferences.records for kind in _KINDS]
        ),
        "prompts": None if scoring.prompts is None else load_prompt_set(scoring.prompts).identity(),
        "scorers": {kind: path and folder_hash(kind, path) for kind, path in given.items()},
    }


def check_scorers(
    preferences: Preferences,
    asked: Sequence[Prompt],
    folders: Mapping[ScorerKind, Path],
    labellers: Mapping[ScorerKind, Path] | None = None,
) -> str:
    """Sentences for the report that say why the scorers that judge are independent of training.

    Raises:
        InputError: a scorer of the other kind, one that learnt from a prompt that the steps are
            trained on or that is asked, or one that is not independent of the `labellers`.
    """
    trained_on = {text_hash(prompt) for prompt in preferences.prompts("train")}
    asked_of = {text_hash(list(prompt.messages)) for prompt in asked}
    groups = {"the steps are trained on": trained_on, "are asked": asked_of}
    learnt: set[str] = set()
    encoders: dict[str, None] = {}
    for kind, folder in folders.items():
        card = read_card(folder)
        if card.kind != kind:
            raise InputError(f"scoring.{kind}: {folder} is a {card.kind} scorer.")
        check_unseen(f"scoring.{kind}: {folder}", card, groups)
        learnt |= set(card.prompt_hashes)
        encoders[f"{card.family}, {card.encoder}"] = None
    trainers = [load_scorer(folder) for folder in (labellers or {}).values()]
    apart = (
        " ".join(check_independent(load_scorer(folder), *trainers) for folder in folders.values())
        if trainers
        else "No scorer took part in training."
    )
    return (
        f"Answers were scored by a reward and a cost scorer ({'; '.join(encoders)}) that learnt "
        f"from {len(learnt):,} prompts: none of them is among the {len(trained_on):,} that the "
        f"steps were trained on, nor among the {len(asked_of):,} asked here. {apart}"
    )


def scorer_metrics(folder: Path) -> dict[str, float]:
    """What a scorer's card says of its quality on prompts that it was not trained on."""
    card = read_card(folder)
    names = {"pair_accuracy": "accuracy", "brier": "brier", "ece": "ece", "auc": "auc"}
    return {new: card.metrics[old].value for old, new in names.items() if old in card.metrics}
