"""Rival methods that start from the same models: Safe RLHF (arXiv 2310.12773), whole.

Reward and cost models (`train_scorer`) and PPO-Lagrangian (`train_ppo_lagrangian`).
"""

from riskalign.baselines.ppo import PPOResult, train_ppo_lagrangian
from riskalign.baselines.rollout import Scorer
from riskalign.baselines.scalar import (
    ScalarModel,
    load_scalar_model,
    save_scalar_model,
    scalar_model,
)
from riskalign.baselines.scorers import ScorerResult, evaluate_scorer, train_scorer
from riskalign.baselines.settings import PPOSettings, ScorerSettings

__all__ = [
    "PPOResult",
    "PPOSettings",
    "ScalarModel",
    "Scorer",
    "ScorerResult",
    "ScorerSettings",
    "evaluate_scorer",
    "load_scalar_model",
    "save_scalar_model",
    "scalar_model",
    "train_ppo_lagrangian",
    "train_scorer",
]
