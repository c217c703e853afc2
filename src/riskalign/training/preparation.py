"""What is settled before the first step: model, tokenizer, vocabulary, data."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from riskalign.data import PairCounts, Tokenized, can_share_prompt, is_grouped
from riskalign.data.kept import kept, source_hash, tokenizer_hash
from riskalign.data.layout import longest_row
from riskalign.data.schema import GROUPS, PAIRS, RESPONSES, bare_words
from riskalign.data.sources import checked_rows, first_words, opened, streamed
from riskalign.data.tokenize import Limits, Prepared, tokenize_all
from riskalign.errors import InputError
from riskalign.losses import ORDERED, UNPAIRED
from riskalign.models import check_weights, load_model
from riskalign.models.sharding import shape_of
from riskalign.tokens import backbone_of, head_of
from riskalign.training.config import RSAConfig

logger = logging.getLogger(__name__)


def load_policy(
    model: Any, tokenizer: PreTrainedTokenizerBase | None, config: RSAConfig
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The model and its tokenizer, or the one given; a name is loaded as everywhere else.

    In float32 unless `model_init_kwargs` says otherwise. Raises `InputError` for what is no model,
    a name that `load_model` refuses, or no tokenizer.
    """
    if isinstance(model, nn.Module):
        check_weights(model, "model")
        if tokenizer is not None:
            return model, tokenizer
        name = getattr(model.config, "_name_or_path", "")
        try:
            return model, AutoTokenizer.from_pretrained(
                name, trust_remote_code=config.trust_remote_code
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"No tokenizer can be loaded for model {name!r}. Give one as processing_class."
            ) from error
    if not isinstance(model, str | Path):
        raise InputError(
            f"model is a {type(model).__name__}. Give a causal language model or its name."
        )
    given: Any = config.model_init_kwargs or {}
    options = {"trust_remote_code": config.trust_remote_code, **given}
    options.pop("use_safetensors", None)  # always
    options["dtype"] = options.pop("dtype", options.pop("torch_dtype", torch.float32))
    revision = options.pop("revision", None)
    name = model if revision is None else f"{model}@{revision}"
    loaded = load_model(name, tokenizer=tokenizer, options=options)
    return loaded.model, loaded.tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, policy: nn.Module, ref: nn.Module) -> None:
    """Raise `InputError` for a token without a row in the model, or models of different rows."""
    rows, ref_rows = (shape_of(head_of(model).weight)[0] for model in (policy, ref))
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
    if isinstance(tokenizer.pad_token_id, int):
        return tokenizer.pad_token_id
    logger.info("The tokenizer has no pad token; rows are padded with its eos token.")
    return tokenizer.eos_token_id if isinstance(tokenizer.eos_token_id, int) else 0


def prepare_rows(
    data: Any,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    model: Any,
    config: RSAConfig,
    split: str = "train",
) -> Tokenized:
    """Load, check and tokenize pairs, groups or (for KTO) single responses.

    What is tokenized already is taken as it is: columns of `tokenize_rows`, or what this function
    made of the same data before (with its counts), under settings that differ at most in `max_gap`,
    `beta` and `gap_scale`. Other rows are kept for the next run (`riskalign.data.kept`), those of
    lists and streams excepted. Scores are cut off at `max_gap`. Raises `InputError` as `load_pairs`
    and `tokenize_rows`, for missing scores, or a row longer than the model's positions.
    """
    rows, counts = _tokenized(data, name, tokenizer, config, split)
    if config.target != "hard":
        rows, cut = _cut_scores(rows, name, config)
        counts = dataclasses.replace(counts, cut_scores=cut)
        if cut:
            logger.warning("%s: %d scores cut off at max_gap %g.", name, cut, config.max_gap)
    limit = getattr(model.config, "max_position_embeddings", None)
    if isinstance(limit, int) and (longest := longest_row(rows)) > limit:
        raise InputError(
            f"{name}: the longest sequence has {longest} tokens but the model has positions for "
            f"{limit} only. Set max_length to at most {limit}."
        )
    return Tokenized(rows, counts)


def _tokenized(
    data: Any, name: str, tokenizer: PreTrainedTokenizerBase, config: RSAConfig, split: str
) -> Tokenized:
    if isinstance(data, Tokenized):
        return data
    unpaired = config.loss_type in UNPAIRED
    if isinstance(data, Dataset):
        for shape in (RESPONSES,) if unpaired else (PAIRS, GROUPS):
            columns = {name for name in shape.tokenized if not name.endswith("_gaps")}
            if columns | {"prompt_ids", "length"} <= {*data.column_names}:
                return Tokenized(data, PairCounts(rows=len(data), kept=len(data)))
    most = config.max_train_samples if split == "train" else config.max_eval_samples
    if config.dataset_streaming:
        data = streamed(data, split, name)
    source = opened(data, split, name)
    limits = Limits(
        config.max_length,
        config.max_prompt_length,
        config.truncation_mode,
        ties=config.target not in ORDERED,
    )

    before = _state(source)

    def make(path: Path | None) -> Prepared:
        grouped = is_grouped(source, name=name)
        if unpaired and grouped:
            raise InputError(
                f"{name}: holds groups of scored answers, and loss_type {config.loss_type!r} takes "
                "pairs or single responses. Give these, or choose a loss of pairs."
            )
        shape = RESPONSES if unpaired else GROUPS if grouped else PAIRS
        more: list[bool] = []
        rows = checked_rows(source, shape, name=name, most=most, more=lambda: more.append(True))
        num_proc = config.dataset_num_proc
        made = tokenize_all(rows, tokenizer, limits, name=name, num_proc=num_proc, path=path)
        if _state(source) != before:
            raise InputError(f"{source}: was changed while it was read. Start again.")
        return made._replace(more=bool(more))

    of_source = source_hash(source) if config.cache_dataset else None
    of_tokenizer = None if of_source is None else tokenizer_hash(tokenizer)
    if of_source is None or of_tokenizer is None:
        return make(None).tell(tokenizer)
    key = {"source": of_source, "tokenizer": of_tokenizer, "unpaired": unpaired, "most": most}
    made, is_new = kept({**key, **dataclasses.asdict(limits)}, make)
    if made.bare and not is_new:
        file = str(source) if isinstance(source, Path) else name
        logger.warning(bare_words(file, made.bare, made.counts.rows))
    if made.more and most is not None and not is_new:
        logger.warning(first_words(name, most))
    return made.tell(tokenizer)


def _state(source: Any) -> tuple[int, ...] | None:
    """What changes with a file's content; None for what is no file."""
    if not isinstance(source, Path):
        return None
    try:
        now = source.stat()
    except OSError:  # who reads it says so
        return None
    return now.st_ino, now.st_size, now.st_mtime_ns


def _cut_scores(rows: Dataset, name: str, config: RSAConfig) -> tuple[Dataset, int]:
    """No score further than `max_gap` nats below its row's best, and how many were."""
    column = "scores" if "scores" in rows.column_names else "gap"
    found = rows.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    grouped = column == "scores"
    before = (found.flatten() if grouped else found).to_numpy(zero_copy_only=False)
    if not grouped and bool(np.isnan(before).any()):
        raise InputError(
            f"{name}: target {config.target!r} needs the columns 'score_chosen' and "
            "'score_rejected' in every row. Add them, or use target 'hard'."
        )
    if config.max_gap is None:
        return rows, 0
    # A margin is beta times nats, and scores are multiplied by gap_scale before they are targets.
    limit = config.max_gap * config.beta / config.gap_scale
    if grouped:
        sizes = found.value_lengths().to_numpy()
        ends = sizes.cumsum()
        best = np.maximum.reduceat(before, ends - sizes)
        after = np.maximum(before, np.repeat(best - limit, sizes))
        offsets = np.concatenate([[0], ends]).astype(np.int32)
        made = pa.ListArray.from_arrays(offsets, after)
    else:
        made = after = before.clip(-limit, limit)
    changed = int((after != before).sum())
    if not changed:
        return rows, 0
    feature = rows.features[column]
    return rows.remove_columns(column).add_column(column, made, feature=feature), changed


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
