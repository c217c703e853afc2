"""Scorers that are a logistic regression on a frozen sentence encoder's embeddings.

A cost reads the answer's embedding beside the prompt's: what is asked says much of how harmful an
answer is, and with both the answer's part need not guess it. A reward reads prompt and answer as
one text: a prompt's own part is the same for two answers and says nothing of which is better.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from riskalign.data.fields import Text
from riskalign.data.identity import as_text
from riskalign.data.sources import Source
from riskalign.errors import InputError
from riskalign.files.atomic import new_folder
from riskalign.models.encoder import DEFAULT_ENCODER, Encoder, load_encoder
from riskalign.scorers.card import Card, make_card, write_card
from riskalign.scorers.kept import in_pieces
from riskalign.scorers.logistic import Floats, Logistic, cross_validate, fit_logistic, platt
from riskalign.scorers.metrics import judge
from riskalign.scorers.prompts import prompt_folds
from riskalign.scorers.rows import Judged
from riskalign.scorers.scorer_data import Kind
from riskalign.scorers.training_data import training_data

#: Called with what is done (``embed``, ``fit`` or ``learn``), how much of it, and of how much.
Update: TypeAlias = Callable[[str, int, int], None]
Embed: TypeAlias = Callable[[Sequence[str]], NDArray[np.float32]]

RIDGES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
FOLDS = 5
_WEIGHTS_FILE = "weights.safetensors"
_PIECE = 128


@dataclass(frozen=True)
class EmbeddingScorer:
    """A linear map of an encoder's features; see `score`."""

    card: Card
    encoder: Encoder
    model: Logistic

    @property
    def kind(self) -> Kind:
        """``reward`` or ``cost``."""
        return self.card.kind

    def score(self, prompts: Sequence[Text], answers: Sequence[Text]) -> list[float]:
        """The scores of n answers to n prompts, each text or messages.

        A cost is the log-odds of being unsafe: above 0 where that is likelier than not. Differences
        of rewards are log-odds of being the better answer.

        Raises:
            InputError: other numbers of prompts than of answers.
        """
        if len(prompts) != len(answers):
            raise InputError(f"{len(prompts)} prompts but {len(answers)} answers. Give as many.")
        if not prompts:
            return []
        scores = self.model(features(self.kind, prompts, answers, self.encoder.embed))
        return [float(score) for score in scores]

    def save(self, folder: str | Path) -> None:
        """Write `scorer.json`, the prompts' hashes and the weights, all or nothing."""
        tensors = {"weights": self.model.weights, "intercept": np.array([self.model.intercept])}
        with new_folder(folder) as temporary:
            write_card(self.card, temporary)
            (temporary / _WEIGHTS_FILE).write_bytes(save(tensors))


def load_embedding_scorer(
    folder: str | Path, card: Card, encoder: str | Path | None = None
) -> EmbeddingScorer:
    """What `EmbeddingScorer.save` wrote; `encoder` says where the encoder is now, if it moved.

    Raises:
        InputError: weights that cannot be read or do not fit, or another encoder than the
            scorer was trained on.
    """
    path = Path(folder) / _WEIGHTS_FILE
    try:
        tensors = load_file(path)
        model = Logistic(tensors["weights"], float(tensors["intercept"][0]))
        if not all(np.isfinite(each).all() for each in tensors.values()):
            raise ValueError("a weight is NaN or infinite")
        max_tokens = int(card.settings["max_tokens"])
    except (OSError, KeyError, IndexError, TypeError, ValueError, SafetensorError) as error:
        raise InputError(f"{path}: the scorer cannot be read: {error}. Train it again.") from error
    loaded = load_encoder(encoder or card.encoder, max_tokens=max_tokens)
    if loaded.sha256 != card.encoder_sha256:
        raise InputError(
            f"{folder}: trained on the encoder {card.encoder!r} with weights "
            f"{card.encoder_sha256[:12]}…, but {loaded.source!r} has {loaded.sha256[:12]}…. "
            "Give the encoder that it was trained on, or train it again."
        )
    width = loaded.width * (2 if card.kind == "cost" else 1)
    if model.weights.shape != (width,):
        raise InputError(
            f"{path}: weights of shape {model.weights.shape} for {width} features. Train it again."
        )
    return EmbeddingScorer(card, loaded, model)


def train_embedding_scorer(
    kind: Kind,
    source: Source,
    *,
    encoder: str | Path | Encoder = DEFAULT_ENCODER,
    half: str = "",
    eval_source: Source | None = None,
    seed: int = 0,
    n_boot: int = 2000,
    keep: Path | None = None,
    update: Update | None = None,
) -> EmbeddingScorer:
    """Train a scorer and judge it on prompts that it has not seen.

    The ridge penalty is the one of `RIDGES` with the least log loss over `FOLDS` folds that share
    no prompt; Platt's calibration is fitted to the same held-out log-odds. Without `eval_source`
    the metrics are of these too, which only the penalty and the calibration's two numbers have
    seen.

    Args:
        kind: ``reward`` or ``cost``.
        source: rows as `judged_rows` takes them.
        encoder: as `load_encoder` takes it, or a loaded one.
        half: ``a`` or ``b`` to use only that part of the prompts (see `half_of`); "" for all.
        eval_source: held-out rows to judge the scorer on; their prompts must be others.
        seed: of the folds and of the intervals.
        n_boot: replicates that the intervals are made from.
        keep: a folder for embeddings, so that an interrupted call can be taken up.
        update: see `Update`.

    Raises:
        InputError: data that do not fit, too few prompts, or labels that are all the same.
        TrainingDiverged: the regression has no finite minimum.
    """
    data = training_data(kind, source, half=half, eval_source=eval_source)
    intercept = kind == "cost"
    owners = [
        own for own, row in zip(data.hashes, data.rows, strict=True)
        for _ in (row.answers if kind == "cost" else row.answers[:1])
    ]  # fmt: skip
    folds = prompt_folds(owners, min(FOLDS, len(set(owners))), seed)
    loaded = encoder if isinstance(encoder, Encoder) else load_encoder(encoder)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        identity = f"{loaded.sha256} {loaded.max_tokens}"
        tell = None if update is None else lambda done, total: update("embed", done, total)
        return in_pieces(
            texts, loaded.embed, size=_PIECE, folder=keep, identity=identity, update=tell
        )

    # All at once, so that the embedding has one bar and no text is read twice.
    every = _answer_features(kind, [*data.rows, *data.held_out], embed)
    n = sum(len(row.answers) for row in data.rows)
    X, y = _regression(kind, data.rows, every[:n])
    found = cross_validate(
        X, y, folds, RIDGES, intercept=intercept,
        update=None if update is None else lambda done, total: update("fit", done, total),
    )  # fmt: skip
    calibration = platt(found.held_out, y, intercept=intercept)
    slope, shift = float(calibration.weights[0]), calibration.intercept
    if slope <= 0:  # no better than chance: turning it round would not make it better
        slope, shift = 1.0, 0.0
    fitted = fit_logistic(X, y, found.ridge, intercept=intercept)
    model = Logistic(slope * fitted.weights, slope * fitted.intercept + shift)
    if data.held_out:
        judged_on, scores = data.held_out_source, model(every[n:])
        metrics = judge(kind, data.held_out, scores, n_boot=n_boot, seed=seed)
    else:
        judged_on = f"{int(folds.max()) + 1}-fold cross-validation"
        held_out = slope * found.held_out + shift
        scores = held_out if kind == "cost" else _as_answers(data.rows, held_out)
        metrics = judge(kind, data.rows, scores, n_boot=n_boot, seed=seed)
    settings = {
        "ridge": found.ridge,
        "max_tokens": loaded.max_tokens,
        "platt_slope": slope,
        "platt_intercept": shift,
        "ridges": list(RIDGES),
        "log_losses": list(found.losses),
    }
    card = make_card(
        kind, "embedding", data, encoder=loaded.source, encoder_sha256=loaded.sha256, seed=seed,
        settings=settings, metrics=metrics, judged_on=judged_on,
    )  # fmt: skip
    return EmbeddingScorer(card, loaded, model)


def features(kind: Kind, prompts: Sequence[Text], answers: Sequence[Text], embed: Embed) -> Floats:
    """Features of n > 0 answers: [n, 2 width] for a cost, [n, width] for a reward."""
    asked, said = [as_text(p) for p in prompts], [as_text(a) for a in answers]
    parts = (
        [said, asked]
        if kind == "cost"
        else [[f"{p}\n{a}" for p, a in zip(asked, said, strict=True)]]
    )
    index = {text: i for i, text in enumerate(dict.fromkeys(t for part in parts for t in part))}
    vectors = embed(list(index)).astype(np.float64)
    return np.hstack([vectors[[index[text] for text in part]] for part in parts])


def _answer_features(kind: Kind, rows: Sequence[Judged], embed: Embed) -> Floats:
    pairs = [(row.prompt, answer) for row in rows for answer in row.answers]
    prompts, answers = zip(*pairs, strict=True)
    return features(kind, prompts, answers, embed)


def _regression(kind: Kind, rows: Sequence[Judged], answers: Floats) -> tuple[Floats, Floats]:
    """Rows and labels of the regression from the answers' features, in order.

    A cost's rows are the answers, a reward's the differences of better and worse.
    """
    if kind == "cost":
        return answers, np.array([label for row in rows for label in row.unsafe], dtype=np.float64)
    sign = np.array([1.0 if row.first == 0 else -1.0 for row in rows])
    return sign[:, None] * (answers[0::2] - answers[1::2]), np.ones(len(rows))


def _as_answers(rows: Sequence[Judged], margins: Floats) -> Floats:
    """Scores of the rows' answers that have these margins: the worse one's is 0."""
    scores = np.zeros(2 * len(rows))
    scores[[2 * i + int(row.first == 1) for i, row in enumerate(rows)]] = margins
    return scores
