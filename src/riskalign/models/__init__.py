"""Loading and saving causal language models: hub ids, folders, GGUF files, the default model."""

from riskalign.models.default import DEFAULT_MODEL
from riskalign.models.finite import check_tensor, check_weights
from riskalign.models.loading import LoadedModel, load_model
from riskalign.models.quantized import check_4bit, load_in_4bit
from riskalign.models.saving import fingerprint, save_model

__all__ = [
    "DEFAULT_MODEL",
    "LoadedModel",
    "check_4bit",
    "check_tensor",
    "check_weights",
    "fingerprint",
    "load_in_4bit",
    "load_model",
    "save_model",
]
