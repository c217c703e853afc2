"""From preference rows to what a scorer is trained on: token ids and signs of safety."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from riskalign.data import PairCounts, load_pairs, tokenize_rows
from riskalign.data.sources import Source
from riskalign.errors import InputError
from riskalign.scorers.batch import Batch, Sample, collate

Kind = Literal["reward", "cost"]
KINDS: tuple[Kind, ...] = ("reward", "cost")


class ScorerPair(NamedTuple):
    """A tokenized pair; signs are +1 for an unsafe answer, -1 for a safe one, 0 for unknown."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    sign_chosen: float
    sign_rejected: float
    chosen_gaps: Sequence[int] = ()


def prepare_pairs(
    source: Source,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    signs: bool,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    positions: int | None = None,
    split: str = "train",
) -> tuple[list[ScorerPair], PairCounts]:
    """Load, check and tokenize preference rows.

    Args:
        source: as `riskalign.data.load_pairs` takes it.
        name: what errors call it.
        tokenizer: the scorer's.
        signs: take signs of safety from the scores, which are minus the costs: below 0 is unsafe.
        max_length: tokens of a prompt and one response together; None for no limit.
        max_prompt_length: tokens of the prompt; None for no limit of its own.
        positions: how many tokens the model can read; None for any number.
        split: which split of a source that has several.

    Raises:
        InputError: see `load_pairs` and `tokenize_rows`; also for a row without scores where
            signs are wanted, and a pair longer than `positions`.
    """
    rows = load_pairs(source, split=split, name_for_errors=name)
    scores = list(zip(rows["score_chosen"], rows["score_rejected"], strict=True))
    if signs:
        for i, (first, _) in enumerate(scores, start=1):
            if first is None:
                raise InputError(
                    f"{name}, row {i}: fields 'score_chosen' and 'score_rejected' (minus the "
                    "costs) are missing, and signs of safety need them. Add them, or set "
                    "safety_signs to False."
                )
    try:
        tokenized, counts = tokenize_rows(
            _numbered(rows), tokenizer, max_length=max_length, max_prompt_length=max_prompt_length
        )
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    pairs = []
    for row in tokenized:
        own = [_sign(score) if signs else 0.0 for score in scores[int(row["gap"])]]
        ids = row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]
        pairs.append(ScorerPair(*ids, own[0], own[1], row["chosen_gaps"]))
    longest = max(len(p.prompt_ids) + max(len(p.chosen_ids), len(p.rejected_ids)) for p in pairs)
    if positions is not None and longest > positions:
        raise InputError(
            f"{name}: the longest sequence has {longest} tokens but the model has positions for "
            f"{positions} only. Set max_length to at most {positions}."
        )
    return pairs, counts


def _numbered(rows: Dataset) -> list[dict[str, Any]]:
    # Tokenizing drops some rows and keeps no score but the difference of two: with these scores
    # the difference is the row's number.
    return [{**row, "score_chosen": float(i), "score_rejected": 0.0} for i, row in enumerate(rows)]


def _sign(score: float) -> float:
    return 1.0 if score < 0 else -1.0


def collate_pairs(
    pairs: Sequence[ScorerPair], pad_token_id: int, shared_prompt: bool, device: torch.device
) -> tuple[Batch, Tensor]:
    """A batch of 2 B answers, the chosen ones of all pairs first, and their signs [2 B]."""
    samples = [Sample(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
    samples += [Sample(pair.prompt_ids, pair.rejected_ids) for pair in pairs]
    signs = [pair.sign_chosen for pair in pairs] + [pair.sign_rejected for pair in pairs]
    return (
        collate(samples, pad_token_id, shared_prompt, device),
        torch.tensor(signs, device=device),
    )
