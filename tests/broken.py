"""Models with one NaN, one infinity, or nothing but zeros, and what is said about them."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from tests import tiny

NORM = "model.layers.1.post_attention_layernorm.weight"
_FINITE = ".*its weight '(model.)?layers.1.post_attention_layernorm.weight' holds NaN or infinity"

#: How a model is broken, and the message's words.
BROKEN = {
    "nan": _FINITE,
    "infinity": _FINITE,
    "zeros": r".*every weight of its input embeddings is 0",
}


@torch.no_grad()
def break_model(model: PreTrainedModel, how: str) -> PreTrainedModel:
    """Break a tiny Llama in place."""
    if how == "zeros":
        for weight in model.parameters():
            weight.zero_()
    else:
        model.get_parameter(NORM)[3] = float("nan" if how == "nan" else "inf")
    return model


def save_broken(folder: Path, how: str) -> Path:
    """Write one by transformers alone, whose doors take it."""
    break_model(tiny.make_model(), how).save_pretrained(folder)
    tiny.make_tokenizer().save_pretrained(folder)
    return folder
