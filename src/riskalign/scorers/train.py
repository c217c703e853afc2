"""Training and judging reward and cost models on preference pairs.

Source: Safe RLHF (arXiv 2310.12773), section 3.2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_scheduler

from riskalign.data import PairCounts, can_share_prompt
from riskalign.data.sources import Source
from riskalign.errors import InputError
from riskalign.scorers.batch import shares_prompts
from riskalign.scorers.calibration import (
    brier_score,
    expected_calibration_error,
    pair_calibration,
)
from riskalign.scorers.divergence import refuse_divergence
from riskalign.scorers.machine import Accelerator, make_accelerator
from riskalign.scorers.scalar import ScalarModel, scalar_model
from riskalign.scorers.scorer_data import KINDS, Kind, ScorerPair, collate_pairs, prepare_pairs
from riskalign.scorers.scorer_losses import cost_model_loss, reward_model_loss
from riskalign.scorers.seeds import generator
from riskalign.scorers.settings import ScorerSettings
from riskalign.training.preparation import padding_id

Update = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ScorerResult:
    """A trained scorer, its adapter merged.

    `log` has `step`, `loss` and `accuracy` (cost models with signs: `sign_accuracy`) for each step
    before its update, `evaluation` what `evaluate_scorer` found, `counts` what became of the
    training and `eval_counts` of the held-out rows.
    """

    model: ScalarModel
    log: list[dict[str, float]]
    evaluation: dict[str, float]
    counts: PairCounts
    eval_counts: PairCounts = field(default_factory=PairCounts)


def train_scorer(
    kind: Kind,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Source,
    settings: ScorerSettings,
    *,
    eval_pairs: Source | None = None,
    peft_config: PeftConfig | None = None,
    seed: int = 0,
    bf16: bool = False,
    update: Update | None = None,
) -> ScorerResult:
    """Train a reward model (chosen scores higher) or a cost model (rejected costs more).

    Dropout stays off. The same seed, data and machine give the same scorer.

    Args:
        kind: ``reward`` or ``cost``.
        model: the causal model whose body is copied; it stays as it is.
        tokenizer: its tokenizer.
        pairs: rows as `riskalign.data.load_pairs` takes them; for ``cost`` the chosen answer is
            the safer one and the scores are minus the costs.
        settings: see `ScorerSettings`.
        eval_pairs: held-out rows to judge the scorer on.
        peft_config: trains an adapter and the head instead of all weights.
        seed: of the head, the adapter and the order of the pairs.
        bf16: compute in bfloat16 where that is safe.
        update: called with (step, steps, note) after each step.

    Raises:
        InputError: data that do not fit, or rows without the scores that signs need.
        TrainingDiverged: a loss or gradient is not finite.
    """
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}. Give one of {', '.join(KINDS)}.")
    accelerator = make_accelerator(bf16)
    prepared, counts = _prepared(pairs, "pairs", tokenizer, model, kind, settings, "train")
    held_out: list[ScorerPair] = []
    eval_counts = PairCounts()
    if eval_pairs is not None:
        held_out, eval_counts = _prepared(
            eval_pairs, "eval_pairs", tokenizer, model, kind, settings, "test"
        )
    scorer = scalar_model(model, seed=seed, head_std=settings.head_std, peft_config=peft_config).to(
        accelerator.device
    )
    read = _Reader(accelerator, padding_id(tokenizer), shares_prompts(model))
    log = _train(kind, scorer, prepared, settings, read, seed, update)
    scorer.merge_adapter()
    evaluation: dict[str, float] = {}
    if held_out:
        size = settings.per_device_train_batch_size
        evaluation = _evaluate(kind, scorer, held_out, read, size)
    return ScorerResult(scorer, log, evaluation, counts, eval_counts)


def evaluate_scorer(
    kind: Kind,
    scorer: ScalarModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Source,
    settings: ScorerSettings,
    *,
    bf16: bool = False,
) -> dict[str, float]:
    """Judge a scorer on held-out pairs.

    Returns:
        `loss`; `accuracy`, the share of pairs in the right order; `brier` and `ece`, the Brier
        score and expected calibration error of `sigmoid(difference)` as the probability of the
        right order. For a cost model with signs also `sign_accuracy`, `sign_brier` and `sign_ece`,
        of `sigmoid(cost)` as the probability of being unsafe.

    Raises:
        InputError: as `train_scorer`.
    """
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}. Give one of {', '.join(KINDS)}.")
    accelerator = make_accelerator(bf16)
    body: Any = scorer.body
    prepared, _ = _prepared(pairs, "pairs", tokenizer, body, kind, settings, "test")
    read = _Reader(accelerator, padding_id(tokenizer), can_share_prompt(body.config))
    scorer.to(accelerator.device)
    return _evaluate(kind, scorer, prepared, read, settings.per_device_train_batch_size)


@dataclass(frozen=True)
class _Reader:
    """What it takes to have a scorer read pairs."""

    accelerator: Accelerator
    pad_token_id: int
    shared_prompt: bool

    def __call__(self, scorer: ScalarModel, pairs: Sequence[ScorerPair]) -> tuple[Tensor, Tensor]:
        """Scores [2, B] of chosen and rejected answers, and their signs."""
        batch, signs = collate_pairs(
            pairs, self.pad_token_id, self.shared_prompt, self.accelerator.device
        )
        with self.accelerator.autocast():
            scores = scorer.scores(batch)
        return scores.unflatten(0, (2, -1)), signs.unflatten(0, (2, -1))


def _prepared(
    source: Source,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    model: Any,
    kind: Kind,
    settings: ScorerSettings,
    split: str,
) -> tuple[list[ScorerPair], PairCounts]:
    return prepare_pairs(
        source,
        name,
        tokenizer,
        signs=kind == "cost" and settings.safety_signs,
        max_length=settings.max_length,
        max_prompt_length=settings.max_prompt_length,
        positions=getattr(model.config, "max_position_embeddings", None),
        split=split,
    )


def _losses(kind: Kind, scores: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """Losses [B] and margins [B] (positive in the right order) of scores and signs [2, B]."""
    chosen, rejected = scores
    if kind == "reward":
        return reward_model_loss(chosen, rejected), chosen - rejected
    known = bool((signs != 0).all())
    loss = cost_model_loss(chosen, rejected, *(signs if known else (None, None)))
    return loss, rejected - chosen


def _train(
    kind: Kind,
    scorer: ScalarModel,
    pairs: Sequence[ScorerPair],
    settings: ScorerSettings,
    read: _Reader,
    seed: int,
    update: Update | None,
) -> list[dict[str, float]]:
    weights = [weight for weight in scorer.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    size = settings.per_device_train_batch_size
    total = settings.num_train_epochs * -(-len(pairs) // size)
    warmup = int(settings.warmup_ratio * total)
    schedule = get_scheduler("linear", optimizer, warmup, total)
    log: list[dict[str, float]] = []
    for epoch in range(settings.num_train_epochs):
        order = torch.randperm(len(pairs), generator=generator(seed, "pairs", epoch)).tolist()
        for at in range(0, len(pairs), size):
            scores, signs = read(scorer, [pairs[i] for i in order[at : at + size]])
            losses, margins = _losses(kind, scores, signs)
            when = f"step {len(log) + 1}"
            refuse_divergence(losses, "loss", when)
            optimizer.zero_grad()
            read.accelerator.backward(losses.mean())
            refuse_divergence(clip_grad_norm_(weights, settings.max_grad_norm), "gradient", when)
            optimizer.step()
            schedule.step()
            entry = {
                "step": float(len(log) + 1),
                "loss": float(losses.detach().mean()),
                "accuracy": float((margins > 0).float().mean()),
            }
            if bool((signs != 0).all()):
                entry["sign_accuracy"] = float((scores * signs > 0).float().mean())
            log.append(entry)
            if update is not None:
                update(len(log), total, f"loss {entry['loss']:.3g}")
    return log


@torch.no_grad()
def _evaluate(
    kind: Kind, scorer: ScalarModel, pairs: Sequence[ScorerPair], read: _Reader, size: int
) -> dict[str, float]:
    scorer.eval()
    parts = [read(scorer, pairs[at : at + size]) for at in range(0, len(pairs), size)]
    scores, signs = (torch.cat([part[i] for part in parts], dim=1) for i in (0, 1))
    scores, signs = scores.cpu().double(), signs.cpu().double()
    losses, margins = _losses(kind, scores, signs)
    brier, ece = pair_calibration(margins)
    found = {
        "loss": float(losses.mean()),
        "accuracy": float((margins > 0).double().mean()),
        "brier": brier,
        "ece": ece,
    }
    if bool((signs != 0).all()):
        unsafe, probability = (signs.flatten() > 0).double(), scores.flatten().sigmoid()
        found |= {
            "sign_accuracy": float((scores * signs > 0).double().mean()),
            "sign_brier": brier_score(probability, unsafe),
            "sign_ece": expected_calibration_error(probability, unsafe),
        }
    return found
