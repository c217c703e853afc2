"""4-bit weights (QLoRA, arXiv 2305.14314) to train an adapter on."""

import importlib.util
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from riskalign.errors import InputError
from riskalign.models.loading import pretrained, resolve_folder


def check_4bit() -> None:
    """Raise `InputError` where the library that 4-bit weights need is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            "load_in_4bit needs the library bitsandbytes: pip install 'riskalign[quant]', or set "
            "load_in_4bit: false."
        )


def load_in_4bit(
    name: str, *, compute_dtype: torch.dtype, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load a causal model with its linear layers in 4 bits (NF4, constants quantised as well).

    Args:
        name: as `load_model` takes it, but no adapter's folder.
        compute_dtype: what the 4 bits are multiplied in, and the dtype of all other weights.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        InputError: no such model, an adapter, or no bitsandbytes.
    """
    check_4bit()
    folder, _ = resolve_folder(name, trust_remote_code)
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"model {name!r} is an adapter, which cannot be loaded in 4 bits. Merge it into its "
            "base first (peft's merge_and_unload) and save the result."
        )
    options: dict[str, Any] = {}
    if torch.cuda.is_available():
        options["device_map"] = {"": torch.cuda.current_device()}
    return pretrained(
        folder,
        dtype=compute_dtype,
        trust_remote_code=trust_remote_code,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype,
        ),
        **options,
    )
