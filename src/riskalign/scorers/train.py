"""Training and judging reward and cost models on preference pairs.

Source: Safe RLHF (arXiv 2310.12773), section 3.2. Losses are unreduced, [B] in and [B] out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
from peft import PeftConfig
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_scheduler

from riskalign.data import PairCounts, Source, can_share_prompt, load_pairs, tokenize_rows
from riskalign.errors import InputError
from riskalign.scorers import training_run
from riskalign.scorers.metrics import both_orders, calibration
from riskalign.scorers.rows import Kind, check_kind
from riskalign.scorers.scalar import Sample, ScalarModel, collate, scalar_model
from riskalign.scorers.training_run import Update, generator, refuse_divergence
from riskalign.settings import Count, Flag, NotNegative, Positive, ToOne, Whole, settings
from riskalign.training.preparation import padding_id


@settings
class ScorerSettings:
    """How a reward or cost model is trained; names as in transformers' `TrainingArguments`."""

    learning_rate: Positive = 2e-5
    """Of AdamW, falling linearly to 0 after the warm-up."""
    num_train_epochs: Count = 2
    """Passes over the pairs."""
    per_device_train_batch_size: Count = 8
    """Pairs in one step."""
    weight_decay: NotNegative = 0.0
    """Of AdamW."""
    warmup_ratio: ToOne = 0.03
    """Share of the steps in which the learning rate rises, in [0, 1]."""
    max_grad_norm: Positive = 1.0
    """Longer gradients are shortened to this."""
    max_length: Annotated[Whole, Field(ge=2)] | None = 512
    """Tokens of a prompt and one response together; None for no limit."""
    max_prompt_length: Count | None = None
    """Tokens of the prompt; None for no limit of its own."""
    safety_signs: Flag = True
    """A cost model learns also which answers are unsafe (score below 0)."""
    head_std: NotNegative = 0.02
    """Standard deviation of the new head's weights."""


class ScorerPair(NamedTuple):
    """A tokenized pair; signs are +1 for an unsafe answer, -1 for a safe one, 0 for unknown."""

    chosen: Sample
    rejected: Sample
    signs: tuple[float, float]
    chosen_gaps: Sequence[int] = ()


@dataclass(frozen=True)
class ScorerResult:
    """A trained scorer, its adapter merged; `counts` say what became of the rows.

    `log` has `step`, `loss` and `accuracy`, the share of pairs in the right order (cost models with
    signs: `sign_accuracy`), for each step before its update. `evaluation` is of the held-out pairs:
    these; `brier` and `ece`, the Brier score and expected calibration error of
    `sigmoid(difference)` as the probability of the right order; with signs also `sign_brier` and
    `sign_ece`, of `sigmoid(cost)` as the probability of being unsafe.
    """

    model: ScalarModel
    log: list[dict[str, float]]
    evaluation: dict[str, float]
    counts: PairCounts
    eval_counts: PairCounts = field(default_factory=PairCounts)


def reward_model_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """The reward model's, Bradley–Terry's `-log sigmoid(chosen - rejected)` of two answers' scores.

    By hand: equal scores give `log 2`; a lead of `log 3` gives `-log(3/4)`, about 0.2877.
    """
    return softplus(rejected - chosen)


def safety_sign(cost: Tensor, sign: Tensor) -> Tensor:
    """`-log sigmoid(sign * cost)`; `sign` is +1 for an unsafe answer and -1 for a safe one.

    It makes 0 the border between safe and unsafe, which differences of costs leave open.

    By hand: the cost `log 3` of an unsafe answer gives `-log(3/4)`; of a safe one `-log(1/4)`.
    """
    return softplus(-sign * cost)


def cost_model_loss(
    chosen: Tensor,
    rejected: Tensor,
    sign_chosen: Tensor | None = None,
    sign_rejected: Tensor | None = None,
) -> Tensor:
    """The cost model's: the rejected answer costs more than the safer one, unsafe ones more than 0.

    Without signs it is the pairwise term alone.

    By hand: costs `-log 3` (safe) and `log 3` (unsafe) give `-log(9/10) - 2 log(3/4)`, about
    0.6807.
    """
    loss = reward_model_loss(rejected, chosen)
    if sign_chosen is not None and sign_rejected is not None:
        loss = loss + safety_sign(chosen, sign_chosen) + safety_sign(rejected, sign_rejected)
    return loss


def prepare_pairs(
    source: Source,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    model: Any,
    *,
    signs: bool,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    split: str = "train",
) -> tuple[list[ScorerPair], PairCounts]:
    """Load, check and tokenize preference rows; errors call them `name`.

    With `signs` of safety, taken from the scores, which are minus the costs: below 0 is unsafe.
    `max_length` is of a prompt and one response together.

    Raises `InputError`: see `load_pairs` and `tokenize_rows`; also for a row without scores where
    signs are wanted, and a pair longer than the model has positions.
    """
    rows = load_pairs(source, split=split, name_for_errors=name)
    scores = list(zip(rows["score_chosen"], rows["score_rejected"], strict=True))
    unscored = [number for number, (first, _) in enumerate(scores, start=1) if first is None]
    if signs and unscored:
        raise InputError(
            f"{name}, row {unscored[0]}: fields 'score_chosen' and 'score_rejected' (minus the "
            "costs) are missing, and signs of safety need them. Add them, or set "
            "safety_signs to False."
        )
    # Tokenizing drops some rows and keeps no score but the difference of two: with these scores
    # the difference is the row's number.
    numbered = [{**row, "score_chosen": i, "score_rejected": 0} for i, row in enumerate(rows)]
    try:
        tokenized, counts = tokenize_rows(
            numbered, tokenizer, max_length=max_length, max_prompt_length=max_prompt_length
        )
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    pairs = []
    for row in tokenized:
        chosen, rejected = (
            Sample(row["prompt_ids"], row[f"{side}_ids"]) for side in ("chosen", "rejected")
        )
        known = scores[int(row["gap"])] if signs else ()
        sign = [1.0 if score < 0 else -1.0 for score in known] or [0.0, 0.0]
        pairs.append(ScorerPair(chosen, rejected, (sign[0], sign[1]), row["chosen_gaps"]))
    longest = max(len(side[0]) + len(side[1]) for pair in pairs for side in pair[:2])
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and longest > positions:
        raise InputError(
            f"{name}: the longest sequence has {longest} tokens but the model has positions for "
            f"{positions} only. Set max_length to at most {positions}."
        )
    return pairs, counts


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
        model: the causal model whose body is copied; it stays as it is.
        pairs: rows as `riskalign.data.load_pairs` takes them; for ``cost`` the chosen answer is
            the safer one and the scores are minus the costs.
        eval_pairs: held-out rows to judge the scorer on.
        peft_config: trains an adapter and the head instead of all weights.
        seed: of the head, the adapter and the order of the pairs.
        bf16: compute in bfloat16 where that is safe.

    Raises:
        InputError: data that do not fit, or rows without the scores that signs need.
        TrainingDiverged: a loss or gradient is not finite.
    """
    check_kind(kind)
    accelerator = training_run.make_accelerator(bf16)
    prepare = partial(
        prepare_pairs,
        tokenizer=tokenizer,
        model=model,
        signs=kind == "cost" and settings.safety_signs,
        max_length=settings.max_length,
        max_prompt_length=settings.max_prompt_length,
    )
    known, counts = prepare(pairs, "pairs")
    held_out: list[ScorerPair] = []
    eval_counts = PairCounts()
    if eval_pairs is not None:
        held_out, eval_counts = prepare(eval_pairs, "eval_pairs", split="test")
    scorer = scalar_model(model, seed=seed, head_std=settings.head_std, peft_config=peft_config)
    reader = _Reader(kind, scorer.to(accelerator.device), padding_id(tokenizer), accelerator)
    log = _train(reader, known, settings, seed, update)
    scorer.merge_adapter()
    size = settings.per_device_train_batch_size
    evaluation = _evaluate(reader, held_out, size) if held_out else {}
    return ScorerResult(scorer, log, evaluation, counts, eval_counts)


@dataclass(frozen=True)
class _Reader:
    """A scorer and how it reads pairs."""

    kind: Kind
    scorer: ScalarModel
    pad_token_id: int
    accelerator: training_run.Accelerator

    def scores(self, pairs: Sequence[ScorerPair]) -> tuple[Tensor, Tensor]:
        """Scores [2, B] of chosen and rejected answers, and their signs."""
        samples = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        body: Any = self.scorer.body
        shared, device = can_share_prompt(body.config), self.accelerator.device
        with self.accelerator.autocast():
            scores = self.scorer.scores(collate(samples, self.pad_token_id, shared, device))
        return scores.unflatten(0, (2, -1)), torch.tensor([p.signs for p in pairs], device=device).T

    def losses(self, scores: Tensor, signs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [B] of scores and signs [2, B], and what is right: pairs' orders, and signs."""
        chosen, rejected = scores
        if self.kind == "reward":
            return reward_model_loss(chosen, rejected), {"accuracy": chosen > rejected}
        right = {"accuracy": rejected > chosen}
        if not bool((signs != 0).all()):
            return cost_model_loss(chosen, rejected), right
        right["sign_accuracy"] = scores * signs > 0
        return cost_model_loss(chosen, rejected, *signs), right


def _train(
    reader: _Reader,
    pairs: Sequence[ScorerPair],
    settings: ScorerSettings,
    seed: int,
    update: Update | None,
) -> list[dict[str, float]]:
    """All epochs, in place; the log."""
    size = settings.per_device_train_batch_size
    weights = [weight for weight in reader.scorer.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    total = settings.num_train_epochs * -(-len(pairs) // size)
    schedule = get_scheduler("linear", optimizer, int(settings.warmup_ratio * total), total)
    log: list[dict[str, float]] = []
    for epoch in range(settings.num_train_epochs):
        order = torch.randperm(len(pairs), generator=generator(seed, "pairs", epoch)).tolist()
        for at in range(0, len(pairs), size):
            scores, signs = reader.scores([pairs[i] for i in order[at : at + size]])
            losses, right = reader.losses(scores, signs)
            when = f"step {len(log) + 1}"
            refuse_divergence(losses, "loss", when)
            optimizer.zero_grad()
            loss = losses.mean()
            reader.accelerator.backward(loss)
            refuse_divergence(clip_grad_norm_(weights, settings.max_grad_norm), "gradient", when)
            optimizer.step()
            schedule.step()
            shares = {name: float(each.float().mean()) for name, each in right.items()}
            log.append({"step": float(len(log) + 1), "loss": float(loss.detach()), **shares})
            if update is not None:
                update(len(log), total, f"loss {log[-1]['loss']:.3g}")
    return log


@torch.no_grad()
def _evaluate(reader: _Reader, pairs: Sequence[ScorerPair], size: int) -> dict[str, float]:
    """What a `ScorerResult` says of held-out pairs."""
    reader.scorer.eval()
    parts = [reader.scores(pairs[at : at + size]) for at in range(0, len(pairs), size)]
    scores, signs = (torch.cat(part, dim=1).cpu().double() for part in zip(*parts, strict=True))
    losses, right = reader.losses(scores, signs)
    found = {name: float(each.double().mean()) for name, each in right.items()}
    margins = (scores[0] - scores[1]) * (1 if reader.kind == "reward" else -1)
    brier, ece = calibration(*both_orders(margins.numpy()))
    found |= {"loss": float(losses.mean()), "brier": brier, "ece": ece}
    if "sign_accuracy" in found:
        unsafe = (signs.flatten() > 0).double().numpy()
        brier, ece = calibration(scores.flatten().sigmoid().numpy(), unsafe)
        found |= {"sign_brier": brier, "sign_ece": ece}
    return found
