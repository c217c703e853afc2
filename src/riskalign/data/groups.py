"""Several scored answers to one prompt: rows `{"prompt", "completions", "scores"}`.

`completions` are k texts or k lists of messages, `scores` k numbers, higher better: what a sampler
with a reward or a cost hands over as it is. The loss takes every pair of a group.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import numpy as np
from datasets import Dataset, Features, Value
from transformers import PreTrainedTokenizerBase

from riskalign.data.fields import given_fields, row_fields
from riskalign.data.schema import checked_score, checked_text
from riskalign.data.sources import Source, in_columns, source_rows, text_feature
from riskalign.data.tokenize import (
    PairCounts,
    TruncationMode,
    in_row,
    is_empty,
    report_counts,
    tokenize_answers,
    truncate_prompt,
)
from riskalign.errors import InputError


class GroupGaps(TypedDict, total=False):
    """Each answer's gaps, as in `PairGaps`."""

    completions_gaps: list[list[int]]


class TokenizedGroup(GroupGaps):
    """One prompt and its answers as token ids, with the answers' scores."""

    prompt_ids: list[int]
    completions_ids: list[list[int]]
    scores: list[float]
    length: int


def is_grouped(source: Source, *, split: str = "train", name: str = "data") -> bool:
    """Whether a source's first row is a group of scored answers.

    Raises:
        InputError: a source that cannot be read.
    """
    _, row = next(iter(source_rows(source, split, name)), ("", None))
    return isinstance(row, Mapping) and "completions" in row


def load_groups(source: Source, *, split: str = "train", name: str = "") -> Dataset:
    """Load and check rows `prompt`, `completions`, `scores`; sources as for `load_pairs`.

    Raises:
        InputError: names the file, the line or row, the field and the remedy.
    """
    name = name or (source if isinstance(source, str) else "data")
    rows, first = [], None
    for where, row in source_rows(source, split, name):
        group = _checked(row, where)
        kind = "text" if isinstance(group["prompt"], str) else "messages"
        first = first or (where, kind)
        if kind != first[1]:
            raise InputError(
                f"{where}: holds {kind} where {first[0]} holds {first[1]}. "
                "Give every row of one data set the same kind."
            )
        rows.append(group)
    if first is None:
        raise InputError(f"{name}: holds no row. Give at least one group of answers.")
    text = text_feature([one for row in rows for one in (row["prompt"], *row["completions"])])
    return in_columns(rows, prompt=text, completions=[text], scores=[Value("float64")])


def _checked(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: expected an object with fields, got {type(row).__name__}.")
    prompt = checked_text(row, "prompt", where)
    for field in ("completions", "scores"):
        if not isinstance(row.get(field), list | tuple):
            raise InputError(f"{where}: field '{field}' is {row.get(field)!r}. Give a list.")
    completions = [
        checked_text({"completions": completion}, "completions", where)
        for completion in row["completions"]
    ]
    if any(isinstance(completion, str) != isinstance(prompt, str) for completion in completions):
        raise InputError(
            f"{where}: fields 'prompt' and 'completions' differ in kind. "
            "Make all text or all lists of messages."
        )
    scores = [checked_score(score, "scores", where) for score in row["scores"]]
    if len(scores) != len(completions) or len(scores) < 2:
        raise InputError(
            f"{where}: {len(completions)} 'completions' and {len(scores)} 'scores'. "
            "Give at least two answers, and a score for each."
        )
    more = row_fields(row, where, messages=not isinstance(prompt, str))
    return {"prompt": prompt, "completions": completions, "scores": scores, **more}


def tokenize_groups(
    groups: Iterable[Any],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    max_prompt_length: int | None = None,
    truncation_mode: TruncationMode = "keep_end",
    ties: bool = True,
) -> tuple[Dataset, PairCounts]:
    """Tokenize rows of `load_groups`, as `tokenize_pairs` does pairs.

    Of equal answers (the same tokens after cutting) to one prompt all stay: how often an answer
    comes is part of the sample. Empty answers are left out and counted by `dropped_empty`; a group
    of fewer than two different answers, or unless `ties` of equal scores alone, is dropped and
    counted by `dropped_identical`. Counts are of rows, but for answers left out or cut.

    Raises:
        InputError: no chat template or end token where one is needed, or no group is left.
    """
    columns: dict[str, list[Any]] = {name: [] for name in TokenizedGroup.__annotations__}
    n = empty = identical = cut_prompts = cut_responses = 0
    for group in groups:
        n += 1
        scored = zip(group["completions"], group["scores"], strict=True)
        answers = [(text, score) for text, score in scored if not is_empty(text)]
        empty += len(group["scores"]) - len(answers)
        scores = [score for _, score in answers]
        texts = tuple(text for text, _ in answers)
        with in_row(n):
            whole, found = tokenize_answers(group["prompt"], texts, tokenizer, given_fields(group))
        ids = [answer.ids for answer in found]
        longest = max((len(own) for own in ids), default=0)
        prompt = truncate_prompt(whole, longest, max_length, max_prompt_length, truncation_mode)
        room = None if max_length is None else max_length - len(prompt)
        kept = [own[:room] for own in ids]
        if len({tuple(own) for own in kept}) < 2 or not (ties or len({*scores}) > 1):
            identical += 1
            continue
        cut_prompts += len(prompt) < len(whole)
        cut_responses += sum(len(a) < len(b) for a, b in zip(kept, ids, strict=True))
        columns["prompt_ids"].append(np.asarray(prompt, dtype=np.int32))
        columns["completions_ids"].append([np.asarray(own, dtype=np.int32) for own in kept])
        columns["completions_gaps"].append([answer.gaps for answer in found])
        columns["scores"].append(scores)
        columns["length"].append(len(prompt) + sum(len(own) for own in kept))
    counts = PairCounts(n, len(columns["length"]), empty, identical, cut_prompts, cut_responses)
    report_counts(counts, "group of answers")
    features = Features(
        prompt_ids=[Value("int32")],
        completions_ids=[[Value("int32")]],
        completions_gaps=[[Value("int32")]],
        scores=[Value("float64")],
        length=Value("int32"),
    )
    return Dataset.from_dict(columns, features=features), counts
