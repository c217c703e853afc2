"""From rows to token ids: truncation, what is dropped, and the table that is trained on."""

import functools
import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import pyarrow as pa
from datasets import Dataset, Features, Value
from transformers import PreTrainedTokenizerBase

from riskalign.data.encode import Written, tokenize_written, written
from riskalign.data.fields import given_fields, is_empty
from riskalign.data.processes import in_order
from riskalign.data.schema import PAIRS, Shape, answers_of, shape_of
from riskalign.data.stored import BATCH, stored
from riskalign.data.template import hearing, warn_once
from riskalign.errors import InputError

TruncationMode: TypeAlias = Literal["keep_end", "keep_start"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairCounts:
    """What became of the rows; nothing is dropped or cut without being counted here."""

    rows: int = 0
    kept: int = 0
    dropped_empty: int = 0
    dropped_identical: int = 0
    truncated_prompts: int = 0
    truncated_responses: int = 0
    cut_scores: int = 0

    def __add__(self, other: "PairCounts") -> "PairCounts":
        """Of both."""
        return PairCounts(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def summary(self) -> str:
        """One line naming what is not zero."""
        words = (f"{n} {name.replace('_', ' ')}" for name, n in asdict(self).items() if n)
        return ", ".join(words)


class Tokenized(NamedTuple):
    """Tokenized rows, and what became of those that they were made of."""

    rows: Dataset
    counts: PairCounts


@dataclass(frozen=True)
class Limits:
    """How long rows may be and how they are cut, and whether ties count; see `tokenize_rows`."""

    max_length: int | None
    max_prompt_length: int | None = None
    truncation_mode: TruncationMode = "keep_end"
    ties: bool = True


class Prepared(NamedTuple):
    """Tokenized rows, their counts, what is to be said of the chat template.

    `bare` is the number of rows without a prompt, and `more` whether others behind the first ones
    were left, which who read them has said.
    """

    rows: Dataset
    counts: PairCounts
    shape: Shape
    said: list[str]
    bare: int
    more: bool = False

    def tell(self, tokenizer: PreTrainedTokenizerBase) -> Tokenized:
        """Say what was dropped and cut, and what the template does; the rows and counts."""
        for words in self.said:
            warn_once(words, str(tokenizer.chat_template))
        if any(n for name, n in asdict(self.counts).items() if name not in ("rows", "kept")):
            logger.warning("%ss: %s.", self.shape.one.capitalize(), self.counts.summary())
        return Tokenized(self.rows, self.counts)


def tokenize_rows(
    rows: Iterable[Any],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    max_prompt_length: int | None = None,
    truncation_mode: TruncationMode = "keep_end",
    ties: bool = True,
) -> Tokenized:
    """Tokenize checked rows of one shape (see `load_pairs`).

    Messages are rendered with the tokenizer's chat template (`render_chat`): the prompt with the
    opening of the assistant's turn, the response as what the template adds to that, its own end
    token included. Text gets the tokenizer's end token. Prompt and response together take at most
    `max_length` tokens: the prompt gives way first, down to half of `max_length`, losing its
    beginning (`keep_end`) or its end (`keep_start`); a response that is still too long is cut,
    loses its end token (it does not end there), and is counted.

    Rows with an empty response are dropped and counted, and so are pairs whose responses are the
    same tokens after cutting. A group loses its empty answers alone, which `dropped_empty` counts;
    equal answers stay, for how often one comes is part of the sample. A group of fewer than two
    different answers, or unless `ties` of equal scores alone, counts in `dropped_identical`.

    Returns:
        `prompt_ids`, the columns `tokenized` of the rows' `Shape`, `length` (the tokens of prompt
        and all responses), and the counts. More than a few thousand rows are read from a file.

    Raises:
        InputError: names the row; no chat template or end token where needed, or no row is left.
    """
    limits = Limits(max_length, max_prompt_length, truncation_mode, ties)
    return tokenize_all(rows, tokenizer, limits).tell(tokenizer)


def tokenize_all(
    rows: Iterable[Any],
    tokenizer: PreTrainedTokenizerBase,
    limits: Limits,
    *,
    name: str = "",
    num_proc: int | None = None,
    path: Path | None = None,
) -> Prepared:
    """`tokenize_rows` in `num_proc` processes, to the file `path` (`stored`); nothing is said yet.

    Errors begin with `name`.
    """
    before, shape = f"{name}: " if name else "", PAIRS
    work = functools.partial(_tokenized, tokenizer=tokenizer, limits=limits, before=before)
    counts, said, bare = PairCounts(), dict[str, None](), 0

    def parts() -> Iterator[tuple[int, list[Any]]]:
        nonlocal shape, bare
        rest, n = iter(rows), 0
        while (some := list(itertools.islice(rest, BATCH))) or not n:
            shape = shape_of(some[0]) if some else shape
            bare += sum(not row["prompt"] for row in some)
            yield n, some
            n += len(some) or 1

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal counts
        for made in in_order(work, parts(), num_proc):
            counts += made.counts
            said.update(dict.fromkeys(made.said))
            yield made.batch

    made = stored(batches(), path)
    if not counts.kept:
        words = counts.summary() or "no rows"
        raise InputError(f"{before}No {shape.one} is left to train on ({words}). {shape.remedy}")
    return Prepared(made, counts, shape, [*said], bare)


class _Made(NamedTuple):
    """What some rows give, and what is to be said of the chat template."""

    batch: pa.RecordBatch
    counts: PairCounts
    said: list[str]


def _tokenized(
    part: tuple[int, list[Any]],
    *,
    tokenizer: PreTrainedTokenizerBase,
    limits: Limits,
    before: str,
) -> _Made:
    """Of rows behind so many others; errors begin with `before`."""
    first, rows = part
    shape = shape_of(rows[0]) if rows else PAIRS
    asked: list[tuple[int, list[float] | None, Written]] = []
    empty = 0
    with hearing() as said:
        for n, row in enumerate(rows):
            texts = answers_of(row)
            full = [i for i, text in enumerate(texts) if not is_empty(text)]
            scores = [row["scores"][i] for i in full] if "scores" in row else None
            empty += len(texts) - len(full) if scores is not None else len(full) < len(texts)
            if scores is None and len(full) < len(texts):
                continue
            own = tuple(texts[i] for i in full)
            try:
                text = written(row["prompt"], own, tokenizer, given_fields(row))
            except InputError as error:
                raise InputError(f"{before}row {first + n + 1}: {error}") from error
            asked.append((n, scores, text))
        found = tokenize_written([text for _, _, text in asked], tokenizer)
    made: list[dict[str, Any]] = []
    identical = cut_prompts = cut_responses = 0
    for (n, scores, _), ids in zip(asked, found, strict=True):
        if isinstance(ids, InputError):
            raise InputError(f"{before}row {first + n + 1}: {ids}") from ids
        row, (whole, answers) = rows[n], ids
        uncut = [answer.ids for answer in answers]
        prompt, kept = truncate(
            whole, uncut, limits.max_length, limits.max_prompt_length, limits.truncation_mode
        )
        alike = len(answers_of(row)) > 1 and len({tuple(answer) for answer in kept}) < 2
        if alike or (scores is not None and not limits.ties and len({*scores}) < 2):
            identical += 1
            continue
        cut_prompts += len(prompt) < len(whole)
        cut_responses += sum(len(a) < len(b) for a, b in zip(kept, uncut, strict=True))
        columns = _columns(row, kept, [answer.gaps for answer in answers], scores)
        length = len(prompt) + sum(map(len, kept))
        made.append({"prompt_ids": prompt, "length": length, **columns})
    counts = PairCounts(len(rows), len(made), empty, identical, cut_prompts, cut_responses)
    features = {"prompt_ids": [Value("int32")], **shape.tokenized, "length": Value("int32")}
    schema = Features(features).arrow_schema
    arrays = [pa.array([row[each.name] for row in made], each.type) for each in schema]
    return _Made(pa.RecordBatch.from_arrays(arrays, schema=schema), counts, [*said])


def _columns(
    row: Mapping[str, Any], answers: list[list[int]], gaps: list[list[int]], scores: Any
) -> dict[str, Any]:
    """The columns of a tokenized row that are its shape's own."""
    if scores is not None:
        return {"completions_ids": answers, "completions_gaps": gaps, "scores": scores}
    chosen, rejected = row.get("score_chosen"), row.get("score_rejected")
    gap = math.nan if chosen is None or rejected is None else chosen - rejected
    columns: dict[str, Any] = {"label": row.get("label"), "gap": gap}
    for name, of_answer, its_gaps in zip(shape_of(row).answers, answers, gaps, strict=True):
        columns |= {f"{name}_ids": of_answer, f"{name}_gaps": its_gaps}
    return columns


def truncate(
    prompt: list[int],
    answers: Sequence[list[int]],
    max_length: int | None,
    max_prompt_length: int | None,
    mode: TruncationMode,
) -> tuple[list[int], list[list[int]]]:
    """Cut the prompt first (not below half of `max_length`), then the answers' ends."""
    longest = max(map(len, answers), default=0)
    prompt = truncate_prompt(prompt, longest, max_length, max_prompt_length, mode)
    room = None if max_length is None else max_length - len(prompt)
    return prompt, [answer[:room] for answer in answers]


def truncate_prompt(
    prompt: list[int],
    longest: int,
    max_length: int | None,
    max_prompt_length: int | None,
    mode: TruncationMode,
) -> list[int]:
    """Cut the prompt so that `longest` tokens fit behind it, but not below half of `max_length`."""
    keep = len(prompt)
    if max_prompt_length is not None:
        keep = min(keep, max_prompt_length)
    if max_length is not None:
        keep = min(keep, max(max_length - longest, max_length // 2))
    return prompt[len(prompt) - keep :] if mode == "keep_end" else prompt[:keep]
