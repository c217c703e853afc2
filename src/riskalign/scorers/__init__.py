"""Scorers learnt from judged answers: rewards (higher is more helpful) and costs (more harmful)."""

from riskalign.scorers.apply import load_scorer, score_file
from riskalign.scorers.causal import train_causal_scorer
from riskalign.scorers.embedding import train_embedding_scorer
from riskalign.scorers.metrics import judge
from riskalign.scorers.rows import Judged, Kind, judged_rows, split_halves, training_data
from riskalign.scorers.scalar import (
    ScalarModel,
    load_scalar_model,
    save_scalar_model,
    scalar_model,
)
from riskalign.scorers.scorer import Card, Scorer, check_independent, check_unseen, read_card
from riskalign.scorers.train import ScorerSettings, train_scorer

__all__ = [
    "Card",
    "Judged",
    "Kind",
    "ScalarModel",
    "Scorer",
    "ScorerSettings",
    "check_independent",
    "check_unseen",
    "judge",
    "judged_rows",
    "load_scalar_model",
    "load_scorer",
    "read_card",
    "save_scalar_model",
    "scalar_model",
    "score_file",
    "split_halves",
    "train_causal_scorer",
    "train_embedding_scorer",
    "train_scorer",
    "training_data",
]
