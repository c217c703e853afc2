"""Scorers learnt from judged answers: rewards (higher is more helpful) and costs (more harmful)."""

from riskalign.scorers.apply import load_scorer as load_scorer
from riskalign.scorers.apply import score_file as score_file
from riskalign.scorers.causal import train_causal_scorer as train_causal_scorer
from riskalign.scorers.embedding import train_embedding_scorer as train_embedding_scorer
from riskalign.scorers.metrics import judge as judge
from riskalign.scorers.rows import Judged as Judged
from riskalign.scorers.rows import Kind as Kind
from riskalign.scorers.rows import judged_rows as judged_rows
from riskalign.scorers.rows import split_halves as split_halves
from riskalign.scorers.rows import training_data as training_data
from riskalign.scorers.scalar import ScalarModel as ScalarModel
from riskalign.scorers.scalar import load_scalar_model as load_scalar_model
from riskalign.scorers.scalar import save_scalar_model as save_scalar_model
from riskalign.scorers.scalar import scalar_model as scalar_model
from riskalign.scorers.scorer import Card as Card
from riskalign.scorers.scorer import Scorer as Scorer
from riskalign.scorers.scorer import check_independent as check_independent
from riskalign.scorers.scorer import check_unseen as check_unseen
from riskalign.scorers.scorer import read_card as read_card
from riskalign.scorers.train import ScorerSettings as ScorerSettings
from riskalign.scorers.train import train_scorer as train_scorer
