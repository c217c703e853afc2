"""The scorers that judge a job on a data set: trained on prompts set aside, checked, noted."""

from pathlib import Path

from riskalign.baselines.scorer_data import Kind as ScorerKind
from riskalign.data import Preferences
from riskalign.pipeline.job import Job
from riskalign.pipeline.judged import SCORED, JudgedWorld, check_scorers, scorer_metrics
from riskalign.pipeline.ledger import Outcome, content_hash
from riskalign.pipeline.progress import Update
from riskalign.scorers import train_embedding_scorer


def train_scorers(job: Job) -> None:
    """Train the scorers that the job has to, and check all that will judge it.

    Does nothing for a job without judged answers or evaluation. Leaves `scorers/reward` and
    `scorers/cost`, what is known of both in the manifest, and there under `notes` why they are
    independent of the training.

    Raises:
        InputError: labels that scorers cannot learn from, or a scorer that is not independent.
    """
    preferences, world = job.preferences, job.world
    if preferences is None or not isinstance(world, JudgedWorld) or job.config.evaluation is None:
        return
    scoring = job.config.scoring_settings()
    for kind, folder in world.folders.items():
        if getattr(scoring, kind) is None:
            _train(job, preferences, kind, folder)
        job.manifest.note("models", f"judge-{kind}", scorer_metrics(folder))
    job.note(check_scorers(preferences, job.eval_prompts, world.folders))


def _train(job: Job, preferences: Preferences, kind: ScorerKind, folder: Path) -> None:
    label, stage = SCORED[kind], f"judge-{kind}"
    rows = preferences.judged("scorer", label)
    encoder, seed = job.config.scoring_settings().encoder, job.seed(stage)

    def work(key: str, update: Update) -> Outcome:
        scorer = train_embedding_scorer(
            kind,
            rows,
            encoder=encoder,
            seed=seed,
            update=lambda phase, done, total: update(done, total, phase),
        )
        scorer.save(folder)
        return {"files": job.ledger.files_in(folder)}

    job.stage(stage, {"rows": content_hash(rows), "encoder": encoder, "seed": seed}, work)
