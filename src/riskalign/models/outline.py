"""A causal language model from its configuration alone: every parameter, and no weights."""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from riskalign.errors import InputError, door
from riskalign.models.folders import DEFAULT_MODEL, HUB_ID


def read_config(name: str) -> PreTrainedConfig:
    """The configuration of a model: of a folder, a `config.json`, a hub id or the default model.

    Of a hub id this one file is fetched, or taken from the hub's cache.

    Raises `InputError` where there is none, and for an adapter or quantised weights.
    """
    path = Path(HUB_ID if name == DEFAULT_MODEL else name).expanduser()
    with door(f"model {name[:80]!r}", "Give a hub id, a folder, or a config.json."):
        is_adapter = (path / "adapter_config.json").is_file()
    if is_adapter:
        raise InputError(f"model {name!r} is an adapter's folder. Give its base model.")
    with door(f"model {name[:80]!r}: no configuration", "Give a hub id, folder or config.json."):
        config = AutoConfig.from_pretrained(path)
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(
            f"model {name!r}: its weights are quantised already, which says nothing of their sizes "
            "here. Give the model that they were made from."
        )
    assert isinstance(config, PreTrainedConfig)
    return config


def outline(
    config: PreTrainedConfig, dtype: torch.dtype = torch.float32, adapter: LoraConfig | None = None
) -> nn.Module:
    """The model on torch's meta device, where tensors have a shape and a dtype and no content.

    Raises `InputError` for a configuration that is no causal language model's, or whose layers
    the adapter does not fit.
    """
    where = f"model type {config.model_type!r}"
    with door(f"{where}: no causal language model can be made of it", "Mend the configuration."):
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model.tie_weights()
    if adapter is None:
        return model  # type: ignore[no-any-return]
    fits = door(f"{where}: the adapter does not fit", "Give other target_modules.")
    with fits, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT says of a layer's kind matters in training
        adapted: nn.Module = get_peft_model(model, copy.deepcopy(adapter))  # it is changed
    return adapted
