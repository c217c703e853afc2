"""A job's own scorers: those that judge, of prompts set aside, and those that label its answers."""

from pathlib import Path

from riskalign.data.preferences import Side
from riskalign.pipeline.job import Job
from riskalign.pipeline.judged import JudgedWorld, check_cards, check_scorers, scorer_metrics
from riskalign.pipeline.ledger import Outcome, content_hash
from riskalign.pipeline.progress import Update
from riskalign.pipeline.scoring import SCORED, encoder_identity
from riskalign.scorers import Kind as ScorerKind
from riskalign.scorers import train_embedding_scorer


def train_scorers(job: Job) -> None:
    """Train the scorers that the job has to, and check all that will judge it.

    Does nothing for a job without judged answers. With `own_answers` leaves `labellers/reward` and
    `labellers/cost`, with an evaluation `scorers/reward` and `scorers/cost`, what is known of them
    in the manifest, and there under `notes` why those that judge are independent of the training.

    Raises:
        InputError: labels that scorers cannot learn from, or a scorer that is not independent.
    """
    preferences, world = job.preferences, job.world
    if preferences is None or not isinstance(world, JudgedWorld):
        return
    scoring = job.config.scoring_settings()
    if job.config.evaluation is not None:
        given = {k: f for k, f in world.folders.items() if getattr(scoring, k) is not None}
        check_cards(job.trained_on, job.eval_prompts, given)
    labellers = job.labelling.folders if job.labelling is not None else {}
    for kind, folder in labellers.items():
        _train(job, "train", kind, folder)
        job.manifest.note("models", f"label-{kind}", scorer_metrics(folder))
    if job.config.evaluation is None:
        return
    for kind, folder in world.folders.items():
        if getattr(scoring, kind) is None:
            _train(job, "scorer", kind, folder)
        job.manifest.note("models", f"judge-{kind}", scorer_metrics(folder))
    if (n := len(job.eval_prompts)) < job.config.evaluation.prompts:
        left = world.left_out
        job.note(
            f"Only {n} prompts could be asked, where evaluation.prompts is "
            f"{job.config.evaluation.prompts}"
            + (f": {left} more were left out because training has them." if left else ".")
        )
    job.note(check_scorers(job.trained_on, job.eval_prompts, world.folders, labellers))


def _train(job: Job, side: Side, kind: ScorerKind, folder: Path) -> None:
    assert job.preferences is not None
    stage = f"judge-{kind}" if side == "scorer" else f"label-{kind}"
    rows = job.preferences.judged(side, SCORED[kind])
    encoder, seed = job.config.scoring_settings().encoder, job.seed(stage)

    def work(key: str, update: Update) -> Outcome:
        scorer = train_embedding_scorer(
            kind,
            rows,
            encoder=encoder,
            seed=seed,
            update=update,
        )
        scorer.save(folder)
        return {"files": job.ledger.files_in(folder)}

    inputs = {"rows": content_hash(rows), "encoder": encoder_identity(encoder), "seed": seed}
    job.stage(stage, inputs, work)
