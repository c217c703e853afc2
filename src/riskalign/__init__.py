"""Risk-aware Stepwise Alignment of language models."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riskalign.models.dial import load_dial
    from riskalign.pipeline import AlignConfig, align
    from riskalign.training import RSAConfig, RSATrainer
    from riskalign.worlds import Prompt, World

__version__ = "0.1.0"

__all__ = [
    "AlignConfig",
    "Prompt",
    "RSAConfig",
    "RSATrainer",
    "World",
    "__version__",
    "align",
    "load_dial",
]

# Loaded on first use: `import riskalign` and `riskalign --help` must not wait for torch.
_HOMES = {
    "AlignConfig": "riskalign.pipeline",
    "Prompt": "riskalign.worlds",
    "RSAConfig": "riskalign.training",
    "RSATrainer": "riskalign.training",
    "World": "riskalign.worlds",
    "align": "riskalign.pipeline",
    "load_dial": "riskalign.models.dial",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
