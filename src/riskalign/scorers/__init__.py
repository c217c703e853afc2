"""Scorers learnt from judged answers: rewards (higher is more helpful) and costs (more harmful)."""

from riskalign.scorers.apply import score_file
from riskalign.scorers.card import Card, read_card
from riskalign.scorers.causal import CausalScorer, train_causal_scorer
from riskalign.scorers.embedding import EmbeddingScorer, train_embedding_scorer
from riskalign.scorers.independence import check_independent, check_unseen
from riskalign.scorers.loading import Scorer, load_scorer
from riskalign.scorers.metrics import judge
from riskalign.scorers.prompts import split_halves
from riskalign.scorers.rows import Judged, judged_rows

__all__ = [
    "Card",
    "CausalScorer",
    "EmbeddingScorer",
    "Judged",
    "Scorer",
    "check_independent",
    "check_unseen",
    "judge",
    "judged_rows",
    "load_scorer",
    "read_card",
    "score_file",
    "split_halves",
    "train_causal_scorer",
    "train_embedding_scorer",
]
