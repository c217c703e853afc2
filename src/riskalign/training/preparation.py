"""What is settled before the first step: model, tokenizer, vocabulary, data."""

import logging
import math
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from riskalign.data import (
    PairCounts,
    TokenizedPair,
    TokenizedResponse,
    load_pairs,
    tokenize_pairs,
    tokenize_unpaired,
    unpaired_rows,
)
from riskalign.errors import InputError
from riskalign.losses import UNPAIRED
from riskalign.tokens import head_of
from riskalign.training.config import RSAConfig

logger = logging.getLogger(__name__)


def load_policy(model: Any, config: RSAConfig) -> nn.Module:
    """Load a model given by name, in float32 unless `model_init_kwargs` says otherwise.

    Raises:
        InputError: the name cannot be loaded, or what was given is no module.
    """
    if isinstance(model, nn.Module):
        return model
    if not isinstance(model, str):
        raise InputError(
            f"model is a {type(model).__name__}. Give a causal language model or its name."
        )
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "use_safetensors": True,
        "trust_remote_code": config.trust_remote_code,
    }
    options |= config.model_init_kwargs or {}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(model, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"model {model!r} cannot be loaded: {error}") from error
    assert isinstance(loaded, nn.Module)
    return loaded


def load_tokenizer(
    tokenizer: PreTrainedTokenizerBase | None, model: Any, config: RSAConfig
) -> PreTrainedTokenizerBase:
    """The given tokenizer, or the one that belongs to the model's name.

    Raises:
        InputError: none is given and none can be loaded.
    """
    if tokenizer is not None:
        return tokenizer
    name = getattr(model.config, "_name_or_path", "")
    try:
        loaded = AutoTokenizer.from_pretrained(name, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No tokenizer can be loaded for model {name!r}. Give one as processing_class."
        ) from error
    assert isinstance(loaded, PreTrainedTokenizerBase)
    return loaded


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, policy: nn.Module, ref: nn.Module) -> None:
    """Check that every token has a row in the model, and that both models' rows are the same.

    Raises:
        InputError: names the sizes and the remedy.
    """
    rows = head_of(policy).weight.shape[0]
    ref_rows = head_of(ref).weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(
            f"The tokenizer has {len(tokenizer)} tokens but the model has rows for {rows} only. "
            "Use the model's own tokenizer, or model.resize_token_embeddings(len(tokenizer))."
        )
    if rows != ref_rows:
        raise InputError(
            f"The model has {rows} vocabulary rows and ref_model {ref_rows}. "
            "Give a reference of the same vocabulary."
        )


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token to fill rows with; it is masked, so its choice changes no value."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token_id, int):
            if tokenizer.pad_token_id is None:
                logger.info("The tokenizer has no pad token; rows are padded with its eos token.")
            return token_id
    return 0


def prepare_pairs(
    data: Any,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    model: Any,
    config: RSAConfig,
    *,
    split: str = "train",
) -> tuple[Dataset, PairCounts]:
    """Load, check and tokenize a data set; one that is tokenized already is taken as it is.

    Raises:
        InputError: see `load_pairs` and `tokenize_pairs`; also where scores are missing that
            the target needs, or a pair is longer than the model's positions.
    """
    unpaired = config.loss_type in UNPAIRED
    columns = TokenizedResponse if unpaired else TokenizedPair
    if isinstance(data, Dataset) and set(columns.__annotations__) <= {*data.column_names}:
        pairs, counts = data, PairCounts(rows=len(data), kept=len(data))
    else:
        rows: Any
        if unpaired:
            rows = list(unpaired_rows(data, split=split, name=name))
        else:
            rows = load_pairs(data, split=split, name_for_errors=name)
        tokenize: Any = tokenize_unpaired if unpaired else tokenize_pairs
        try:
            pairs, counts = tokenize(
                rows,
                tokenizer,
                max_length=config.max_length,
                max_prompt_length=config.max_prompt_length,
                truncation_mode=config.truncation_mode,
            )
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    if config.target != "hard" and any(math.isnan(gap) for gap in pairs["gap"]):
        raise InputError(
            f"{name}: target {config.target!r} needs the columns 'score_chosen' and "
            "'score_rejected' in every row. Add them, or use target 'hard'."
        )
    limit = getattr(model.config, "max_position_embeddings", None)
    sides = ("completion_ids",) if unpaired else ("chosen_ids", "rejected_ids")
    longest = max(len(row["prompt_ids"]) + max(len(row[side]) for side in sides) for row in pairs)
    if isinstance(limit, int) and longest > limit:
        raise InputError(
            f"{name}: the longest sequence has {longest} tokens but the model has positions for "
            f"{limit} only. Set max_length to at most {limit}."
        )
    return pairs, counts


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability to zero, those that attention layers keep as numbers too."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
