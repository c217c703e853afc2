"""A saved scorer, whatever its family."""

from pathlib import Path
from typing import TypeAlias

from riskalign.scorers.card import read_card
from riskalign.scorers.causal import CausalScorer, load_causal_scorer
from riskalign.scorers.embedding import EmbeddingScorer, load_embedding_scorer

Scorer: TypeAlias = EmbeddingScorer | CausalScorer


def load_scorer(folder: str | Path, *, encoder: str | Path | None = None) -> Scorer:
    """Load what a scorer's `save` wrote.

    Args:
        folder: the scorer's.
        encoder: where an embedding scorer's encoder is now, if not where it was at training.

    Raises:
        InputError: no scorer there, or one that is damaged or does not fit its encoder.
    """
    card = read_card(folder)
    if card.family == "causal":
        return load_causal_scorer(folder, card)
    return load_embedding_scorer(folder, card, encoder)
