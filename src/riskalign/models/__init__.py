"""Loading and saving causal language models: hub ids, folders, GGUF files, the default model."""

from riskalign.models.folders import DEFAULT_MODEL
from riskalign.models.loading import LoadedModel, check_4bit, load_in_4bit, load_model
from riskalign.models.weights import check_tensor, check_weights, fingerprint, save_model

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
