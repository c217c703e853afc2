"""Models with one NaN, one infinity, a norm of zeros or nothing but zeros, and what is said."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from tests import tiny

NORM = "model.layers.1.post_attention_layernorm.weight"
_ITS = "its weight '(model.)?layers.1.post_attention_layernorm.weight'"
_FINITE = f".*{_ITS} holds NaN or infinity"

#: How a model is broken, and the message's words.
BROKEN = {
    "nan": _FINITE,
    "infinity": _FINITE,
    "zero norm": f".*every number of {_ITS} is 0",
    "zeros": ".*every number of its weight '(model.)?embed_tokens.weight' is 0",
}


@torch.no_grad()
def break_model(model: PreTrainedModel, how: str) -> PreTrainedModel:
    """Break a tiny Llama in place."""
    if how == "zeros":
        for weight in model.parameters():
            weight.zero_()
    elif how == "zero norm":
        model.get_parameter(NORM).zero_()
    else:
        model.get_parameter(NORM)[3] = float("nan" if how == "nan" else "inf")
    return model


def save_broken(folder: Path, how: str) -> Path:
    """Write one by transformers alone, whose doors take it."""
    break_model(tiny.make_model(), how).save_pretrained(folder)
    tiny.make_tokenizer().save_pretrained(folder)
    return folder
