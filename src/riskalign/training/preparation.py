"""What is settled before the first step: model, tokenizer, vocabulary, data."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from riskalign.data import (
    PairCounts,
    TokenizedGroup,
    TokenizedPair,
    TokenizedResponse,
    can_share_prompt,
    is_grouped,
    load_groups,
    load_pairs,
    tokenize_groups,
    tokenize_pairs,
    tokenize_unpaired,
    unpaired_rows,
)
from riskalign.errors import InputError
from riskalign.losses import ORDERED, UNPAIRED
from riskalign.models import check_weights, load_model
from riskalign.tokens import backbone_of, head_of
from riskalign.training.config import RSAConfig

logger = logging.getLogger(__name__)


def load_policy(
    model: Any, tokenizer: PreTrainedTokenizerBase | None, config: RSAConfig
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The model and its tokenizer, or the one given; a name is loaded as everywhere else.

    In float32 unless `model_init_kwargs` says otherwise.

    Raises:
        InputError: what was given is no module, or `load_model` refuses the name, or no tokenizer
            can be found.
    """
    if isinstance(model, nn.Module):
        check_weights(model, "model")
        return model, tokenizer or _load_tokenizer(model, config)
    if not isinstance(model, str | Path):
        raise InputError(
            f"model is a {type(model).__name__}. Give a causal language model or its name."
        )
    options = dict(config.model_init_kwargs or {})  # type: ignore[arg-type]
    options.pop("use_safetensors", None)  # always
    dtype = options.pop("dtype", options.pop("torch_dtype", torch.float32))
    revision = options.pop("revision", None)
    loaded = load_model(
        model if revision is None else f"{model}@{revision}",
        dtype=dtype,
        trust_remote_code=options.pop("trust_remote_code", config.trust_remote_code),
        tokenizer=tokenizer,
        options=options,
    )
    return loaded.model, loaded.tokenizer


def _load_tokenizer(model: Any, config: RSAConfig) -> PreTrainedTokenizerBase:
    """The one that belongs to the model's name."""
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


def prepare_rows(
    data: Any,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    model: Any,
    config: RSAConfig,
    *,
    split: str = "train",
) -> tuple[Dataset, PairCounts]:
    """Load, check and tokenize pairs, groups or (for KTO) single responses.

    What is tokenized already is taken as it is. Scores are cut off at `max_gap`.

    Raises:
        InputError: see `load_pairs`, `load_groups` and what tokenizes them; also where scores are
            missing that the target needs, or a row is longer than the model's positions.
    """
    unpaired = config.loss_type in UNPAIRED
    kinds = (TokenizedResponse,) if unpaired else (TokenizedPair, TokenizedGroup)
    known = {*data.column_names} if isinstance(data, Dataset) else set()
    if any(columns.__required_keys__ <= known for columns in kinds):
        rows, counts = data, PairCounts(rows=len(data), kept=len(data))
    else:
        rows, counts = _tokenized(data, name, tokenizer, config, split)
    if config.target != "hard":
        rows, cut = _cut_scores(rows, name, config)
        counts = dataclasses.replace(counts, cut_scores=cut)
        if cut:
            logger.warning("%s: %d scores cut off at max_gap %g.", name, cut, config.max_gap)
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = max(len(row["prompt_ids"]) + max(map(len, _responses(row))) for row in rows)
    if isinstance(limit, int) and longest > limit:
        raise InputError(
            f"{name}: the longest sequence has {longest} tokens but the model has positions for "
            f"{limit} only. Set max_length to at most {limit}."
        )
    return rows, counts


def _tokenized(
    data: Any, name: str, tokenizer: PreTrainedTokenizerBase, config: RSAConfig, split: str
) -> tuple[Dataset, PairCounts]:
    options: dict[str, Any] = {
        "max_length": config.max_length,
        "max_prompt_length": config.max_prompt_length,
        "truncation_mode": config.truncation_mode,
    }
    tokenize: Any = tokenize_pairs
    rows: Any
    grouped = is_grouped(data, split=split, name=name)
    if config.loss_type in UNPAIRED:
        if grouped:
            raise InputError(
                f"{name}: holds groups of scored answers, and loss_type {config.loss_type!r} takes "
                "pairs or single responses. Give these, or choose a loss of pairs."
            )
        tokenize, rows = tokenize_unpaired, list(unpaired_rows(data, split=split, name=name))
    elif grouped:
        tokenize, rows = tokenize_groups, load_groups(data, split=split, name=name)
        options["ties"] = config.target not in ORDERED
    else:
        rows = load_pairs(data, split=split, name_for_errors=name)
    try:
        found: tuple[Dataset, PairCounts] = tokenize(rows, tokenizer, **options)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return found


def _responses(row: Any) -> list[list[int]]:
    names = ("completion_ids", "chosen_ids", "rejected_ids")
    return row["completions_ids"] if "scores" in row else [row[n] for n in names if n in row]


def _cut_scores(rows: Dataset, name: str, config: RSAConfig) -> tuple[Dataset, int]:
    """No score further than `max_gap` nats below its row's best, and how many were."""
    column = "scores" if "scores" in rows.column_names else "gap"
    scores = rows[column]
    if column == "gap" and bool(np.isnan(np.asarray(scores)).any()):
        raise InputError(
            f"{name}: target {config.target!r} needs the columns 'score_chosen' and "
            "'score_rejected' in every row. Add them, or use target 'hard'."
        )
    if config.max_gap is None:
        return rows, 0
    # A margin is beta times nats, and scores are multiplied by gap_scale before they are targets.
    limit = config.max_gap * config.beta / config.gap_scale
    if column == "gap":
        cut = [min(max(gap, -limit), limit) for gap in scores]
        changed = sum(a != b for a, b in zip(cut, scores, strict=True))
    else:
        cut = [[max(s, max(own) - limit) for s in own] for own in scores]
        changed = sum(
            a != b for x, y in zip(cut, scores, strict=True) for a, b in zip(x, y, strict=True)
        )
    feature = rows.features[column]
    return rows.remove_columns(column).add_column(column, cut, feature=feature), changed


def check_experts(model: Any) -> None:
    """Say that a mixture of experts trains without its balancing loss; refuse where it is on.

    transformers adds it to the loss of next tokens where `output_router_logits` is set, and only
    there.
    """
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    if getattr(config, "output_router_logits", False):
        raise InputError(
            "model: its configuration has output_router_logits on, which asks for the loss that "
            "balances its experts, and riskalign has none. Set output_router_logits: false in its "
            "config.json (model.config.output_router_logits = False) to train without it."
        )
    if getattr(config, "router_aux_loss_coef", None):
        logger.warning(
            "The model is a mixture of experts; it is trained without the loss that balances them."
        )


def check_trainable(policy: nn.Module) -> None:
    """Raise `InputError` where no weight would be trained."""
    if not any(parameter.requires_grad for parameter in policy.parameters()):
        raise InputError(
            "model: none of its weights is trainable (requires_grad). Load a PEFT model with "
            "is_trainable=True, give a peft_config, or call model.requires_grad_(True)."
        )


def decide_shared_prompt(wanted: bool | None, policy: nn.Module, ref: nn.Module) -> bool:
    """Whether each prompt is computed once: as wanted, else where that changes nothing."""
    configs: list[Any] = [backbone_of(model).config for model in (policy, ref)]
    possible = all(can_share_prompt(config) for config in configs)
    if wanted and not possible:
        kinds = ", ".join(sorted({config.model_type for config in configs}))
        raise InputError(
            f"shared_prompt is True, but for this model ({kinds}) prompts cannot be shared "
            "exactly. Leave it None, or use a full-attention model with sdpa attention."
        )
    return possible if wanted is None else wanted
