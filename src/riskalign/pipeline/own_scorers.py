"""A job's own scorers: those that judge, of prompts set aside, and those that label its answers."""

from collections.abc import Mapping
from pathlib import Path

from riskalign.data.identity import text_hash
from riskalign.data.preferences import Side
from riskalign.errors import InputError
from riskalign.pipeline.job import Job
from riskalign.pipeline.judged import SCORED, JudgedWorld, encoder_identity
from riskalign.pipeline.ledger import Outcome, content_hash
from riskalign.pipeline.progress import Update
from riskalign.scorers import (
    Card,
    check_independent,
    check_unseen,
    load_scorer,
    read_card,
    train_embedding_scorer,
)
from riskalign.scorers import Kind as ScorerKind

_QUALITY = {"pair_accuracy": "accuracy", "brier": "brier", "ece": "ece", "auc": "auc"}


def train_scorers(job: Job) -> None:
    """Train the scorers that the job has to, and check all that will judge it.

    Does nothing for a job without judged answers. With `own_answers` leaves `labellers/reward` and
    `labellers/cost`, with an evaluation `scorers/reward` and `scorers/cost`, what is known of them
    in the manifest, and there under `notes` why those that judge are independent of the training.

    Raises `InputError`: labels that scorers cannot learn from, or a scorer that is not independent.
    """
    world, evaluation = job.world, job.config.evaluation
    if not isinstance(world, JudgedWorld):
        return
    labellers = job.labelling.folders if job.labelling is not None else {}
    for kind, folder in labellers.items():
        _train(job, "train", kind, folder)
        _note(job, f"label-{kind}", read_card(folder))
    if evaluation is None:
        return
    cards = {}
    for kind, folder in world.folders.items():
        if getattr(job.config.scoring_settings(), kind) is None:
            _train(job, "scorer", kind, folder)
        cards[kind] = read_card(folder)
        _note(job, f"judge-{kind}", cards[kind])
    if (n := len(job.eval_prompts)) < evaluation.prompts:
        left = f": {world.left_out} more were left out because training has them."
        job.note(
            f"Only {n} prompts could be asked, where evaluation.prompts is {evaluation.prompts}"
            + (left if world.left_out else ".")
        )
    _check_cards(job, world.folders, cards)
    job.note(_independence(job, world.folders, cards, labellers))


def _train(job: Job, side: Side, kind: ScorerKind, folder: Path) -> None:
    assert job.data.preferences is not None
    stage = f"judge-{kind}" if side == "scorer" else f"label-{kind}"
    rows = job.data.preferences.judged(side, SCORED[kind])
    encoder, seed = job.config.scoring_settings().encoder, job.seed(stage)

    def work(key: str, update: Update) -> Outcome:
        scorer = train_embedding_scorer(kind, rows, encoder=encoder, seed=seed, update=update)
        scorer.save(folder)
        return {"files": [folder]}

    inputs = {"rows": content_hash(rows), "encoder": encoder_identity(encoder), "seed": seed}
    job.stage(stage, inputs, work)


def _note(job: Job, name: str, card: Card) -> None:
    """Keep what a scorer's card says of its quality on prompts that it was not trained on."""
    metrics = card.metrics
    job.note_scorer(name, {new: metrics[k].value for k, new in _QUALITY.items() if k in metrics})


def check_given_judges(job: Job) -> None:
    """Refuse judges that the configuration names, before the job, as `train_scorers` would."""
    if isinstance(job.world, JudgedWorld) and job.config.evaluation is not None:
        named, folders = job.config.scoring_settings(), job.world.folders
        given = [kind for kind in folders if getattr(named, kind) is not None]
        _check_cards(job, folders, {kind: read_card(folders[kind]) for kind in given})


def _check_cards(
    job: Job, folders: Mapping[ScorerKind, Path], cards: Mapping[ScorerKind, Card]
) -> None:
    """Refuse a judge of the other kind, or that learnt from prompts trained on or asked."""
    asked = {text_hash(list(prompt.messages)) for prompt in job.eval_prompts}
    groups = {"the steps are trained on": job.trained_on, "are asked": asked}
    for kind, card in cards.items():
        name = f"scoring.{kind}: {folders[kind]}"
        if card.kind != kind:
            raise InputError(f"{name} is a {card.kind} scorer.")
        check_unseen(name, card, groups)


def _independence(
    job: Job,
    folders: Mapping[ScorerKind, Path],
    cards: Mapping[ScorerKind, Card],
    labellers: Mapping[ScorerKind, Path],
) -> str:
    """Why the scorers that judge are independent of training, those that labelled among it."""
    learnt = {each for card in cards.values() for each in card.prompt_hashes}
    encoders = dict.fromkeys(f"{card.family}, {card.encoder}" for card in cards.values())
    apart = "No scorer took part in training."
    if trainers := [load_scorer(folder) for folder in labellers.values()]:
        judges = map(load_scorer, folders.values())
        apart = " ".join(check_independent(judge, *trainers) for judge in judges)
    return (
        f"Answers were scored by a reward and a cost scorer ({'; '.join(encoders)}) that learnt "
        f"from {len(learnt):,} prompts: none of them is among the {len(job.trained_on):,} that the "
        f"steps were trained on, nor among the {len(job.eval_prompts):,} asked here. {apart}"
    )
