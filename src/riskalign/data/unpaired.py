"""Responses judged one by one: `{"prompt", "completion", "label"}`, TRL's unpaired format.

Pairs count as two such rows each, the chosen response true and the rejected one false.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from datasets import Dataset, Features, Value
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from riskalign.data.collate import RowCollator
from riskalign.data.fields import given_fields, row_fields
from riskalign.data.schema import check_row, checked_text
from riskalign.data.sources import Source, in_columns, source_rows, text_feature
from riskalign.data.tokenize import (
    PairCounts,
    TruncationMode,
    in_row,
    is_empty,
    tokenize_answers,
    truncate_prompt,
)
from riskalign.errors import InputError


class ResponseGaps(TypedDict, total=False):
    """The response's gaps, as in `PairGaps`."""

    completion_gaps: list[int]


class TokenizedResponse(ResponseGaps):
    """One judged response as token ids."""

    prompt_ids: list[int]
    completion_ids: list[int]
    label: bool
    length: int


def unpaired_rows(source: Source, *, split: str = "train", name: str = "data") -> Iterator[Any]:
    """Checked rows `{"prompt", "completion", "label"}` of a source of these, or of pairs.

    Raises:
        InputError: names the file, the line or row, the field and the remedy.
    """
    first: tuple[str, str] | None = None
    for where, row in _judged(source, split, name):
        kind = "text" if isinstance(row["completion"], str) else "messages"
        first = first or (where, kind)
        if kind != first[1]:
            raise InputError(
                f"{where}: holds {kind} where {first[0]} holds {first[1]}. "
                "Give every row of one data set the same kind."
            )
        yield row


def load_unpaired(source: Source, *, split: str = "train", name: str = "data") -> Dataset:
    """`unpaired_rows` as a data set; errors are the same."""
    rows = list(unpaired_rows(source, split=split, name=name))
    if not rows:
        raise InputError(f"{name}: holds no row. Give at least one judged response.")
    text = text_feature([row[side] for row in rows for side in ("prompt", "completion")])
    return in_columns(rows, prompt=text, completion=text, label=Value("bool"))


def _judged(source: Source, split: str, name: str) -> Iterator[tuple[str, Any]]:
    for where, row in source_rows(source, split, name):
        if isinstance(row, Mapping) and "completion" in row:
            label = row.get("label")
            if not isinstance(label, bool):
                raise InputError(
                    f"{where}: field 'label' is {label!r}. Give true (desirable) or false."
                )
            prompt, completion = (
                checked_text(row, field, where) for field in ("prompt", "completion")
            )
            if isinstance(prompt, str) != isinstance(completion, str):
                raise InputError(
                    f"{where}: fields 'prompt' and 'completion' differ in kind. "
                    "Make both text or both lists of messages."
                )
            more = row_fields(row, where, messages=not isinstance(prompt, str))
            yield where, {"prompt": prompt, "completion": completion, "label": label, **more}
        else:
            pair = check_row(row, where)
            more = given_fields(pair)
            for field, label in (("chosen", True), ("rejected", False)):
                text = pair[field]  # type: ignore[literal-required]
                judged = {"prompt": pair["prompt"], "completion": text, "label": label}
                yield where, {**judged, **more}


def is_unpaired(source: Source, *, split: str = "train", name: str = "data") -> bool:
    """Whether a source's first row is a judged response rather than a pair.

    Raises:
        InputError: a source that cannot be read.
    """
    _, row = next(iter(source_rows(source, split, name)), ("", None))
    return isinstance(row, Mapping) and "completion" in row


def tokenize_unpaired(
    rows: Iterable[Any],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    max_prompt_length: int | None = None,
    truncation_mode: TruncationMode = "keep_end",
) -> tuple[Dataset, PairCounts]:
    """Tokenize rows of `unpaired_rows`, as `tokenize_pairs` does pairs.

    Raises:
        InputError: no chat template or end token where one is needed, or no row is left.
    """
    columns: dict[str, list[Any]] = {name: [] for name in TokenizedResponse.__annotations__}
    n = empty = cut_prompts = cut_responses = 0
    for row in rows:
        n += 1
        if is_empty(row["completion"]):
            empty += 1
            continue
        with in_row(n):  # of pairs, as many responses as came before
            whole, ((completion, gaps),) = tokenize_answers(
                row["prompt"], (row["completion"],), tokenizer, given_fields(row)
            )
        prompt = truncate_prompt(
            whole, len(completion), max_length, max_prompt_length, truncation_mode
        )
        kept = completion if max_length is None else completion[: max_length - len(prompt)]
        cut_prompts += len(prompt) < len(whole)
        cut_responses += len(kept) < len(completion)
        columns["prompt_ids"].append(np.asarray(prompt, dtype=np.int32))
        columns["completion_ids"].append(np.asarray(kept, dtype=np.int32))
        columns["completion_gaps"].append(gaps)
        columns["label"].append(row["label"])
        columns["length"].append(len(prompt) + len(kept))
    counts = PairCounts(
        n, len(columns["label"]), empty, 0, cut_prompts, truncated_responses=cut_responses
    )
    if not counts.kept:
        raise InputError(
            f"No response is left to train on ({counts.summary() or 'no rows'}). Give rows whose "
            "completion is not empty."
        )
    ids = [Value("int32")]
    features = Features(
        prompt_ids=ids,
        completion_ids=ids,
        completion_gaps=ids,
        label=Value("bool"),
        length=Value("int32"),
    )
    return Dataset.from_dict(columns, features=features), counts


@dataclass(frozen=True)
class UnpairedCollator:
    """Collates `TokenizedResponse`s as `RowCollator` does pairs, for KTO.

    In place of the chosen response stands the row's own, in place of the rejected one the response
    of the row before it (before the first, of the last): the mismatched responses that KTO's
    estimate of the KL is taken from. `gap` [B] is 1 where the label is true and -1 elsewhere.
    A batch of a single row has no other response and takes that one. `max_length` also holds for a
    prompt with a mismatched response.
    """

    pad_token_id: int
    shared_prompt: bool = False
    max_length: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Collate a list of rows; see the class."""
        pairs = []
        for i, row in enumerate(rows):
            room = None if self.max_length is None else self.max_length - len(row["prompt_ids"])
            pairs.append(
                {
                    "prompt_ids": row["prompt_ids"],
                    "chosen_ids": row["completion_ids"],
                    "rejected_ids": rows[i - 1]["completion_ids"][:room],
                    "chosen_gaps": row.get("completion_gaps", ()),
                    "rejected_gaps": rows[i - 1].get("completion_gaps", ()),
                    "gap": 1.0 if row["label"] else -1.0,
                }
            )
        return RowCollator(self.pad_token_id, self.shared_prompt)(pairs)
