"""Scorers that are a logistic regression on a frozen sentence encoder's embeddings.

A cost reads the answer's embedding beside the prompt's: what is asked says much of how harmful an
answer is, and with both the answer's part need not guess it. A reward reads prompt and answer as
one text: a prompt's own part is the same for two answers and says nothing of which is better.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from riskalign.data import Source, Text
from riskalign.data.identity import as_text
from riskalign.errors import InputError
from riskalign.models.encoder import DEFAULT_ENCODER, Encoder, load_encoder
from riskalign.scorers.kept import in_pieces
from riskalign.scorers.logistic import Floats, Logistic, cross_validate, fit_logistic, platt
from riskalign.scorers.metrics import judge, verdicts
from riskalign.scorers.rows import Judged, Kind, prompt_folds, training_data
from riskalign.scorers.scorer import Card, Scorer, make_card
from riskalign.scorers.training_run import Update

Embed: TypeAlias = Callable[[Sequence[str]], NDArray[np.float32]]

RIDGES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
FOLDS = 5
_WEIGHTS_FILE = "weights.safetensors"
_PIECE = 128


@dataclass(frozen=True)
class EmbeddingModel:
    """A linear map of an encoder's features."""

    kind: Kind
    encoder: Encoder
    regression: Logistic

    def score(self, prompts: Sequence[Text], answers: Sequence[Text]) -> list[float]:
        """See `Scorer.score`."""
        scores = self.regression(features(self.kind, prompts, answers, self.encoder.embed))
        return [float(score) for score in scores]

    def write(self, folder: Path) -> None:
        """Write the weights; the encoder is not copied."""
        weights, intercept = self.regression.weights, np.array([self.regression.intercept])
        content = save({"weights": weights, "intercept": intercept})
        (folder / _WEIGHTS_FILE).write_bytes(content)


def load_embedding_model(
    folder: str | Path, card: Card, max_tokens: int, encoder: str | Path | None = None
) -> EmbeddingModel:
    """What `EmbeddingModel.write` wrote; `encoder` says where the encoder is now, if it moved.

    Raises `InputError`: weights that cannot be read or do not fit, or another encoder than the
    scorer was trained on.
    """
    path = Path(folder) / _WEIGHTS_FILE
    try:
        tensors = load_file(path)
        regression = Logistic(tensors["weights"], float(tensors["intercept"][0]))
        if not all(np.isfinite(each).all() for each in tensors.values()):
            raise ValueError("a weight is NaN or infinite")
    except (OSError, KeyError, IndexError, ValueError, SafetensorError) as error:
        raise InputError(f"{path}: the scorer cannot be read: {error}. Train it again.") from error
    loaded = load_encoder(encoder or card.encoder, max_tokens=max_tokens)
    if loaded.sha256 != card.encoder_sha256:
        raise InputError(
            f"{folder}: trained on the encoder {card.encoder!r} with weights "
            f"{card.encoder_sha256[:12]}…, but {loaded.source!r} has {loaded.sha256[:12]}…. "
            "Give the encoder that it was trained on, or train it again."
        )
    width = loaded.width * (2 if card.kind == "cost" else 1)
    if (shape := regression.weights.shape) != (width,):
        raise InputError(f"{path}: weights of shape {shape} for {width} features. Train it again.")
    return EmbeddingModel(card.kind, loaded, regression)


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
) -> Scorer:
    """Train a scorer and judge it on prompts that it has not seen.

    The ridge penalty is the one of `RIDGES` with the least log loss over `FOLDS` folds that share
    no prompt; Platt's calibration is fitted to the same held-out log-odds. Without `eval_source`
    the metrics are of these too, which only the penalty and the calibration's two numbers have
    seen.

    Args:
        source: rows as `judged_rows` takes them.
        encoder: as `load_encoder` takes it, or a loaded one.
        half: ``a`` or ``b`` to use only that part of the prompts (see `half_of`); "" for all.
        eval_source: held-out rows to judge the scorer on; their prompts must be others.
        seed: of the folds and of the intervals.
        n_boot: replicates that the intervals are made from.
        keep: a folder for embeddings, so that an interrupted call can be taken up.
        update: the word is ``embed`` or ``fit``.

    Raises:
        InputError: data that do not fit, too few prompts, or labels that are all the same.
        TrainingDiverged: the regression has no finite minimum.
    """
    data = training_data(kind, source, half=half, eval_source=eval_source)
    intercept = kind == "cost"
    # A cost's regression has a row for each answer, a reward's for each pair.
    sizes = [len(row.answers) if kind == "cost" else 1 for row in data.rows]
    owners = [own for own, n in zip(data.hashes, sizes, strict=True) for _ in range(n)]
    folds = prompt_folds(owners, min(FOLDS, len(set(owners))), seed)
    loaded = encoder if isinstance(encoder, Encoder) else load_encoder(encoder)

    def tell(phase: str) -> Callable[[int, int], None] | None:
        return None if update is None else lambda done, total: update(done, total, phase)

    embed = partial(
        in_pieces,
        compute=loaded.embed,
        size=_PIECE,
        folder=keep,
        identity=f"{loaded.sha256} {loaded.max_tokens}",
        update=tell("embed"),
    )
    # All at once, so that the embedding has one bar and no text is read twice.
    pairs = [(row.prompt, each) for row in [*data.rows, *data.held_out] for each in row.answers]
    prompts, answers = zip(*pairs, strict=True)
    every = features(kind, prompts, answers, embed)
    n = sum(len(row.answers) for row in data.rows)
    X, y = _regression(kind, data.rows, every[:n])
    ridge, margins, losses = cross_validate(
        X, y, folds, RIDGES, intercept=intercept, update=tell("fit")
    )
    calibration = platt(margins, y, intercept=intercept)
    slope, shift = float(calibration.weights[0]), calibration.intercept
    if slope <= 0:  # no better than chance: turning it round would not make it better
        slope, shift = 1.0, 0.0
    fitted = fit_logistic(X, y, ridge, intercept=intercept)
    regression = Logistic(slope * fitted.weights, slope * fitted.intercept + shift)
    if data.held_out:
        rows, scores, judged_on = data.held_out, regression(every[n:]), data.held_out_source
    else:
        rows, scores = data.rows, slope * margins + shift
        judged_on = f"{int(folds.max()) + 1}-fold cross-validation"
        if kind == "reward":  # answers that have these margins: the worse one's score is 0
            better = np.array([[row.first == 0, row.first == 1] for row in rows])
            scores = (scores[:, None] * better).ravel()
    card = make_card(
        data,
        family="embedding",
        encoder=loaded.source,
        encoder_sha256=loaded.sha256,
        seed=seed,
        settings={
            "ridge": ridge,
            "max_tokens": loaded.max_tokens,
            "platt_slope": slope,
            "platt_intercept": shift,
            "ridges": list(RIDGES),
            "log_losses": losses,
        },
        metrics=judge(kind, rows, scores, n_boot=n_boot, seed=seed),
        judged_on=judged_on,
        verdicts=verdicts(rows, scores),
    )
    return Scorer(card, EmbeddingModel(kind, loaded, regression))


def features(kind: Kind, prompts: Sequence[Text], answers: Sequence[Text], embed: Embed) -> Floats:
    """Features of n > 0 answers: [n, 2 width] for a cost, [n, width] for a reward."""
    asked, said = [as_text(p) for p in prompts], [as_text(a) for a in answers]
    joined = [f"{p}\n{a}" for p, a in zip(asked, said, strict=True)]
    parts = [said, asked] if kind == "cost" else [joined]
    index = {text: i for i, text in enumerate(dict.fromkeys(t for part in parts for t in part))}
    vectors = embed(list(index)).astype(np.float64)
    return np.hstack([vectors[[index[text] for text in part]] for part in parts])


def _regression(kind: Kind, rows: Sequence[Judged], answers: Floats) -> tuple[Floats, Floats]:
    """Rows and labels of the regression from the answers' features, in order.

    A cost's rows are the answers, a reward's the differences of better and worse.
    """
    if kind == "cost":
        return answers, np.array([label for row in rows for label in row.unsafe], dtype=np.float64)
    sign = np.array([1.0 if row.first == 0 else -1.0 for row in rows])
    return sign[:, None] * (answers[0::2] - answers[1::2]), np.ones(len(rows))
