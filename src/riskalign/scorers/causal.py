"""Scorers with a causal model's body: `riskalign.safe_rlhf.train_scorer`, saved with a card."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from riskalign.data.fields import Text
from riskalign.data.identity import as_text
from riskalign.data.sources import Source
from riskalign.data.tokenize import tokenize_responses, truncate_prompt
from riskalign.errors import InputError
from riskalign.files.atomic import new_folder
from riskalign.models import DEFAULT_MODEL, load_model
from riskalign.models.loading import load_tokenizer
from riskalign.scorers.batch import Sample, collate
from riskalign.scorers.card import Card, make_card, write_card
from riskalign.scorers.embedding import Update
from riskalign.scorers.metrics import judge
from riskalign.scorers.prompts import prompt_folds
from riskalign.scorers.rows import Judged
from riskalign.scorers.scalar import ScalarModel, load_scalar_model, save_scalar_model
from riskalign.scorers.scorer_data import Kind
from riskalign.scorers.settings import ScorerSettings
from riskalign.scorers.train import train_scorer
from riskalign.scorers.training_data import training_data
from riskalign.training.preparation import padding_id

#: Without held-out data, one prompt in so many is not trained on.
HELD_OUT_ONE_IN = 10
_MODEL_FOLDER = "model"
_BATCH = 8


@dataclass(frozen=True)
class CausalScorer:
    """A `ScalarModel` with its tokenizer; see `score`."""

    card: Card
    model: ScalarModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def kind(self) -> Kind:
        """``reward`` or ``cost``."""
        return self.card.kind

    def score(self, prompts: Sequence[Text], answers: Sequence[Text]) -> list[float]:
        """As `EmbeddingScorer.score`; a cost's sign is learnt, its scale as log-odds roughly so.

        Raises:
            InputError: other numbers of prompts than of answers.
        """
        if len(prompts) != len(answers):
            raise InputError(f"{len(prompts)} prompts but {len(answers)} answers. Give as many.")
        limit = int(self.card.settings["max_length"])
        return _scores(self.model, self.tokenizer, prompts, answers, limit)

    def save(self, folder: str | Path) -> None:
        """Write `scorer.json`, the prompts' hashes and the model, all or nothing."""
        with new_folder(folder) as temporary:
            write_card(self.card, temporary)
            save_scalar_model(self.model, temporary / _MODEL_FOLDER, self.tokenizer)


def load_causal_scorer(folder: str | Path, card: Card) -> CausalScorer:
    """What `CausalScorer.save` wrote.

    Raises:
        InputError: the model or its tokenizer cannot be loaded.
    """
    path = Path(folder) / _MODEL_FOLDER
    return CausalScorer(card, _placed(load_scalar_model(path)), load_tokenizer(path))


def train_causal_scorer(
    kind: Kind,
    source: Source,
    *,
    model: str | Path = DEFAULT_MODEL,
    settings: ScorerSettings | None = None,
    half: str = "",
    eval_source: Source | None = None,
    seed: int = 0,
    n_boot: int = 2000,
    update: Update | None = None,
) -> CausalScorer:
    """Train a scorer and judge it on prompts that it has not seen.

    Texts are put to a model with a chat template as messages, to another one with a line break
    between prompt and answer. Without `eval_source` one prompt in `HELD_OUT_ONE_IN` is kept for
    judging; it counts as trained on wherever independence is asked for.

    Args:
        kind: ``reward`` or ``cost``.
        source: rows as `judged_rows` takes them, all of them pairs.
        model: as `riskalign.models.load_model` takes it.
        settings: of the training; `max_length` None means 512 here.
        half: ``a`` or ``b`` to use only that part of the prompts (see `half_of`); "" for all.
        eval_source: held-out rows to judge the scorer on; their prompts must be others.
        seed: of the head, the order, the prompts kept for judging, and the intervals.
        n_boot: replicates that the intervals are made from.
        update: see `Update`.

    Raises:
        InputError: data that do not fit, or too few prompts.
        TrainingDiverged: a loss or gradient is not finite.
    """
    data = training_data(kind, source, half=half, eval_source=eval_source)
    rows, held_out, judged_on = data.rows, data.held_out, data.held_out_source
    if not held_out:
        n = len(set(data.hashes))
        if n <= HELD_OUT_ONE_IN:
            raise InputError(
                f"{data.source}: one prompt in {HELD_OUT_ONE_IN} is kept to judge the scorer on, "
                f"and of {n} that is less than the 2 which an interval takes. Give more than "
                f"{HELD_OUT_ONE_IN} prompts, or --eval_data."
            )
        folds = prompt_folds(data.hashes, HELD_OUT_ONE_IN, seed)
        rows = [row for row, fold in zip(data.rows, folds, strict=True) if fold]
        held_out = [row for row, fold in zip(data.rows, folds, strict=True) if not fold]
        judged_on = f"one prompt in {HELD_OUT_ONE_IN}, not trained on"
    if any(row.first is None for row in data.rows):
        raise InputError(
            f"{data.source}: holds single completions, and the causal family is trained on "
            "pairs. Give pairs, or train the embedding family."
        )
    own = settings or ScorerSettings()
    loaded = load_model(model)
    result = train_scorer(
        kind,
        loaded.model,
        loaded.tokenizer,
        [_pair(row, loaded.tokenizer) for row in rows],
        own,
        seed=seed,
        update=None if update is None else lambda n, total, _: update("learn", n, total),
    )
    scalar = _placed(result.model)
    positions = getattr(loaded.model.config, "max_position_embeddings", None) or 512
    limit = min(own.max_length or 512, positions)
    prompts, answers = zip(
        *((row.prompt, answer) for row in held_out for answer in row.answers), strict=True
    )
    scores = _scores(scalar, loaded.tokenizer, prompts, answers, limit)
    card = make_card(
        kind,
        "causal",
        data,
        encoder=loaded.source,
        encoder_sha256=loaded.revision_or_hash,
        seed=seed,
        settings={**vars(own), "max_length": limit},
        metrics=judge(kind, held_out, scores, n_boot=n_boot, seed=seed),
        judged_on=judged_on,
    )
    return CausalScorer(card, scalar, loaded.tokenizer)


def _placed(model: ScalarModel) -> ScalarModel:
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _shaped(prompt: Text, answer: Text, tokenizer: PreTrainedTokenizerBase) -> tuple[Text, Text]:
    """Prompt and answer of the kind that the model reads: messages, or text."""
    if not tokenizer.chat_template:
        return f"{as_text(prompt)}\n", as_text(answer)
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if isinstance(answer, str):
        answer = [{"role": "assistant", "content": answer}]
    return prompt, answer


def _pair(row: Judged, tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    assert row.first is not None
    order = (row.first, 1 - row.first)
    (prompt, chosen), (_, rejected) = (
        _shaped(row.prompt, row.answers[i], tokenizer) for i in order
    )
    pair: dict[str, object] = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if row.unsafe:  # `train_scorer` takes the sign of a score alone
        pair["score_chosen"], pair["score_rejected"] = (-float(row.unsafe[i]) for i in order)
    return pair


@torch.inference_mode()
def _scores(
    model: ScalarModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Text],
    answers: Sequence[Text],
    max_length: int,
) -> list[float]:
    samples = []
    for prompt, answer in zip(prompts, answers, strict=True):
        asked, said = _shaped(prompt, answer, tokenizer)
        whole, (ids,) = tokenize_responses(asked, (said,), tokenizer)
        kept = truncate_prompt(whole, len(ids), max_length, None, "keep_end")
        samples.append(Sample(kept, ids[: max_length - len(kept)]))
    scores = [0.0] * len(samples)
    order = sorted(range(len(samples)), key=lambda i: -len(samples[i].response_ids))
    device = model.head.weight.device
    for at in range(0, len(order), _BATCH):
        rows = order[at : at + _BATCH]
        batch = collate([samples[i] for i in rows], padding_id(tokenizer), False, device)
        for i, score in zip(rows, model.scores(batch).tolist(), strict=True):
            scores[i] = score
    return scores
