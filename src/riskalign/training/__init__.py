"""Training one step on transformers' `Trainer`."""

from riskalign.training.config import RSAConfig
from riskalign.training.modules import bf16_is_fast
from riskalign.training.trainer import RSATrainer

__all__ = ["RSAConfig", "RSATrainer", "bf16_is_fast"]
