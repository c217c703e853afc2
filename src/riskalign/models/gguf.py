"""GGUF files: dequantised once into a folder that loads like any other."""

import struct
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from riskalign.errors import InputError
from riskalign.files.cache import file_sha256, model_folder
from riskalign.models.saving import save_model


def gguf_folder(path: Path) -> tuple[Path, str]:
    """The folder with this GGUF file's model in float32, and the file's SHA-256.

    The folder is made on the first call and found in the cache afterwards.
    """
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise InputError(f"{path}: not a GGUF file (its first four bytes are not 'GGUF').")
    sha256 = file_sha256(path)
    folder = model_folder(path.stem.lower(), sha256)
    if not (folder / "config.json").is_file():
        convert_gguf(path, folder)
    return folder, sha256


def convert_gguf(path: Path, folder: Path) -> None:
    """Write the model, tokenizer and chat template of a GGUF file to `folder`, as safetensors.

    Raises `InputError` for an architecture that transformers cannot read from GGUF, or a file that
    is cut short.
    """
    try:
        quantised = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (ValueError, KeyError, IndexError, OSError, struct.error, NotImplementedError) as error:
        raise InputError(
            f"{path}: transformers cannot read this GGUF file ({error}). Fetch it again if it may "
            "be cut short; else use the model's original folder or hub id."
        ) from error
    # The loaded model counts as quantised and refuses to be saved or trained although its
    # weights are plain by now; a fresh model of the same configuration has no such memory.
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.name_or_path = path.stem
    plain: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantised.state_dict())
    plain.tie_weights()
    if quantised.generation_config is not None:
        plain.generation_config = quantised.generation_config
    save_model(plain, tokenizer, folder)
