"""How well a trained step orders pairs that it never saw, by its implicit reward."""

import torch
from datasets import Dataset

from riskalign.evaluation import binomial_interval
from riskalign.models import LoadedModel
from riskalign.pipeline.fit import training_config
from riskalign.pipeline.job import Job, ModelOnDisk
from riskalign.pipeline.ledger import Outcome, rows_hash
from riskalign.pipeline.progress import Update
from riskalign.pipeline.settings import Kind, for_order
from riskalign.training import RSAConfig, RSATrainer

_ACTS = (
    *("eval_data", "max_eval_samples", "per_device_eval_batch_size"),
    *("loss_type", "risk", "alpha", "max_length"),
)


def accuracy_stage(
    job: Job, name: str, kind: Kind, reference: ModelOnDisk, trained: ModelOnDisk, beta: float
) -> dict[str, float]:
    """The stage `accuracy-<name>`: what `held_out_accuracy` finds of a step."""
    step, stage, pairs = job.config.step(kind), f"accuracy-{name}", job.data.held_out[kind]
    known = job.tokenized.get(f"{kind}.eval_data")
    # Where rows were dropped, the drawn ones would be others.
    rows = known.rows if known is not None and known.counts.kept == len(pairs) else pairs
    seed, bf16 = job.seed(stage), job.bf16
    inputs = {
        "model": trained.weights,
        "reference": reference.weights,
        "data": rows_hash(pairs),
        "step": {name: value for name, value in vars(step).items() if name in _ACTS},
        "beta": beta,
        "bf16": bf16,
        "seed": seed,
    }

    def work(key: str, update: Update) -> Outcome:
        # The margin needs no target, and the pairs need no scores.
        args = training_config(for_order(step), beta, seed, bf16, job.folder / name)
        models, most = (trained.load(), reference.load()), step.max_eval_samples
        return {"found": held_out_accuracy(*models, rows, args, most, update)}

    found: dict[str, float] = job.stage(stage, inputs, work)["found"]
    return found


def held_out_accuracy(
    policy: LoadedModel,
    reference: LoadedModel,
    pairs: Dataset,
    args: RSAConfig,
    most: int,
    update: Update | None = None,
) -> dict[str, float]:
    """The share of pairs whose margin has the right sign.

    The margin is the difference of implicit rewards as the step's loss takes it: for DPO
    `beta` times the log ratios' (arXiv 2305.18290, section 5.1), for TDPO and RSA with their risk
    terms; KTO, which has no margin of pairs, counts by DPO's.

    Of the pairs, tokenized or not, at most `most` are taken, drawn by `args.seed`; nothing is left
    on disk. Returns `pairs`, `accuracy` (ties half) with its exact 95 % interval `low` and `high`,
    pairs taken as independent, and `mean_margin` in the units of the loss.
    """
    drawn = pairs.shuffle(seed=args.seed, keep_in_memory=True)
    trainer = RSATrainer(
        model=policy.model,
        ref_model=reference.model,
        args=args,
        eval_dataset=drawn.select(range(min(len(pairs), most))),
        processing_class=policy.tokenizer,
    )
    margins: list[float] = []
    with torch.no_grad():
        for batch in trainer.get_eval_dataloader():
            margins += trainer.row_losses(policy.model, batch).metrics["margin"].tolist()
            if update is not None:
                update(len(margins), min(len(pairs), most), "")
    n, right = len(margins), sum((margin > 0) + 0.5 * (margin == 0) for margin in margins)
    low, high = binomial_interval(right, n)
    mean = float(torch.tensor(margins, dtype=torch.float64).mean())
    return {"pairs": float(n), "accuracy": right / n, "low": low, "high": high, "mean_margin": mean}
