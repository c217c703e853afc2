"""Writing a model whole or not at all, and naming its weights by a hash."""

import hashlib
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from riskalign.files.atomic import new_folder
from riskalign.models.finite import check_weights


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> None:
    """Write model (safetensors), configurations, tokenizer and chat template to `folder`.

    An existing folder is replaced as a whole; an interruption leaves the old one. A PEFT model is
    written as its adapter. Raises `InputError` for weights that are not finite; nothing is
    written then.
    """
    check_weights(model, f"model for {str(folder)!r}")
    with new_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


@torch.no_grad()
def fingerprint(model: nn.Module) -> str:
    """Hex SHA-256 over the names, dtypes, shapes and bytes of all weights and saved buffers.

    Equal for two models exactly when their state dicts are equal, bit for bit, whatever device
    they are on.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}\n".encode())
        # Not every dtype exists in NumPy (bfloat16 does not), bytes do.
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()
