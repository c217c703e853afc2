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
from riskalign.scorers import Kind as ScorerKind
from riskalign.scorers import (
    check_independent,
    check_unseen,
    load_scorer,
    read_card,
    train_embedding_scorer,
)

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
        _note(job, f"label-{kind}", folder)
    if evaluation is None:
        return
    for kind, folder in world.folders.items():
        if getattr(job.config.scoring_settings(), kind) is None:
            _train(job, "scorer", kind, folder)
        _note(job, f"judge-{kind}", folder)
    if (n := len(job.eval_prompts)) < evaluation.prompts:
        left = f": {world.left_out} more were left out because training has them."
        job.note(
            f"Only {n} prompts could be asked, where evaluation.prompts is {evaluation.prompts}"
            + (left if world.left_out else ".")
        )
    check_cards(job)
    job.note(_independence(job, world.folders, labellers))


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


def _note(job: Job, name: str, folder: Path) -> None:
    """Keep what a scorer's card says of its quality on prompts that it was not trained on."""
    metrics = read_card(folder).metrics
    job.note_scorer(name, {new: metrics[k].value for k, new in _QUALITY.items() if k in metrics})


def check_cards(job: Job, *, given: bool = False) -> None:
    """Refuse a judge of the other kind, or that learnt from prompts trained on or asked.

    Checks those that there are before the job where only the `given` ones are asked for.
    """
    if not isinstance(job.world, JudgedWorld) or job.config.evaluation is None:
        return
    asked = {text_hash(list(prompt.messages)) for prompt in job.eval_prompts}
    groups = {"the steps are trained on": job.trained_on, "are asked": asked}
    for kind, folder in job.world.folders.items():
        if given and getattr(job.config.scoring_settings(), kind) is None:
            continue
        card = read_card(folder)
        if card.kind != kind:
            raise InputError(f"scoring.{kind}: {folder} is a {card.kind} scorer.")
        check_unseen(f"scoring.{kind}: {folder}", card, groups)


def _independence(
    job: Job, folders: Mapping[ScorerKind, Path], labellers: Mapping[ScorerKind, Path]
) -> str:
    """Why the scorers that judge are independent of training, those that labelled among it."""
    cards = [read_card(folder) for folder in folders.values()]
    learnt = {each for card in cards for each in card.prompt_hashes}
    encoders = dict.fromkeys(f"{card.family}, {card.encoder}" for card in cards)
    apart = "No scorer took part in training."
    if trainers := [load_scorer(folder) for folder in labellers.values()]:
        judges = map(load_scorer, folders.values())
        apart = " ".join(check_independent(judge, *trainers) for judge in judges)
    return (
        f"Answers were scored by a reward and a cost scorer ({'; '.join(encoders)}) that learnt "
        f"from {len(learnt):,} prompts: none of them is among the {len(job.trained_on):,} that the "
        f"steps were trained on, nor among the {len(job.eval_prompts):,} asked here. {apart}"
    )
