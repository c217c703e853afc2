"""Scorers with a causal model's body, trained by `riskalign.scorers.train`, with a card."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from riskalign.data import Source, Text, tokenize_responses
from riskalign.data.identity import as_text
from riskalign.data.tokenize import truncate_prompt
from riskalign.errors import InputError
from riskalign.models import DEFAULT_MODEL, load_model
from riskalign.models.loading import load_tokenizer
from riskalign.scorers.metrics import judge, verdicts
from riskalign.scorers.rows import Judged, Kind, prompt_folds, training_data
from riskalign.scorers.scalar import (
    Sample,
    ScalarModel,
    collate,
    load_scalar_model,
    save_scalar_model,
)
from riskalign.scorers.scorer import Scorer, make_card
from riskalign.scorers.train import ScorerSettings, train_scorer
from riskalign.scorers.training_run import Update
from riskalign.training.preparation import padding_id

#: Without held-out data, one prompt in so many is not trained on.
HELD_OUT_ONE_IN = 10
_MODEL_FOLDER = "model"
_BATCH = 8


@dataclass(frozen=True)
class CausalModel:
    """A scalar model on the fastest device there is, its tokenizer, and how much it reads."""

    model: ScalarModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int

    @torch.inference_mode()
    def score(self, prompts: Sequence[Text], answers: Sequence[Text]) -> list[float]:
        """See `Scorer.score`."""
        samples = []
        for prompt, answer in zip(prompts, answers, strict=True):
            asked, said = _shaped(prompt, answer, self.tokenizer)
            whole, (ids,) = tokenize_responses(asked, (said,), self.tokenizer)
            kept = truncate_prompt(whole, len(ids), self.max_length, None, "keep_end")
            samples.append(Sample(kept, ids[: self.max_length - len(kept)]))
        scores = [0.0] * len(samples)
        order = sorted(range(len(samples)), key=lambda i: -len(samples[i].response_ids))
        pad, device = padding_id(self.tokenizer), self.model.head.weight.device
        for at in range(0, len(order), _BATCH):
            rows = order[at : at + _BATCH]
            batch = collate([samples[i] for i in rows], pad, False, device)
            for i, score in zip(rows, self.model.scores(batch).tolist(), strict=True):
                scores[i] = score
        return scores

    def write(self, folder: Path) -> None:
        """Write model and tokenizer."""
        save_scalar_model(self.model, folder / _MODEL_FOLDER, self.tokenizer)


def load_causal_model(folder: str | Path, max_length: int) -> CausalModel:
    """What `CausalModel.write` wrote; `InputError` where it cannot be loaded."""
    path = Path(folder) / _MODEL_FOLDER
    model, tokenizer = _placed(load_scalar_model(path)), load_tokenizer(path)
    return CausalModel(model, tokenizer, max_length)


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
) -> Scorer:
    """Train a scorer and judge it on prompts that it has not seen.

    Texts are put to a model with a chat template as messages, to another one with a line break
    between prompt and answer. Without `eval_source` one prompt in `HELD_OUT_ONE_IN` is kept for
    judging; it counts as trained on wherever independence is asked for.

    Arguments are those of `train_embedding_scorer`, but for `model`, as `load_model` takes it, and
    `settings`, whose `max_length` None means 512 here. `source` holds pairs alone; `seed` is of the
    head, the order, the prompts kept for judging, and the intervals.

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
    settings = settings or ScorerSettings()
    loaded = load_model(model)
    result = train_scorer(
        kind,
        loaded.model,
        loaded.tokenizer,
        [_pair(row, loaded.tokenizer) for row in rows],
        settings,
        seed=seed,
        update=None if update is None else lambda n, total, _: update(n, total, "learn"),
    )
    positions = getattr(loaded.model.config, "max_position_embeddings", None) or 512
    limit = min(settings.max_length or 512, positions)
    scalar = CausalModel(_placed(result.model), loaded.tokenizer, limit)
    pairs = [(row.prompt, answer) for row in held_out for answer in row.answers]
    scores = scalar.score([prompt for prompt, _ in pairs], [answer for _, answer in pairs])
    card = make_card(
        data,
        family="causal",
        encoder=loaded.source,
        encoder_sha256=loaded.revision_or_hash,
        seed=seed,
        settings={**vars(settings), "max_length": limit},
        metrics=judge(kind, held_out, scores, n_boot=n_boot, seed=seed),
        judged_on=judged_on,
        verdicts=verdicts(held_out, scores),
    )
    return Scorer(card, scalar)


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
