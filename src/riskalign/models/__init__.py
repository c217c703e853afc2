"""Loading and saving causal language models: hub ids, folders, GGUF files, the default model."""

from riskalign.models.default import DEFAULT_MODEL
from riskalign.models.loading import LoadedModel, load_model
from riskalign.models.saving import fingerprint, save_model

__all__ = ["DEFAULT_MODEL", "LoadedModel", "fingerprint", "load_model", "save_model"]
