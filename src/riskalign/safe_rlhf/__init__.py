"""Safe RLHF (arXiv 2310.12773): PPO-Lagrangian, a rival method."""

from riskalign.safe_rlhf.ppo import PPOResult, train_ppo_lagrangian
from riskalign.safe_rlhf.rollout import Scorer
from riskalign.safe_rlhf.settings import PPOSettings

__all__ = ["PPOResult", "PPOSettings", "Scorer", "train_ppo_lagrangian"]
