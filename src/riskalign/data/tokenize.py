"""From preference rows to token ids: chat templates, end tokens, truncation."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict

import numpy as np
from datasets import Dataset, Features, Value
from transformers import PreTrainedTokenizerBase

from riskalign.data.chat import between_turns, render_chat
from riskalign.data.fields import Rendering, given_fields, said_fields
from riskalign.data.schema import Text
from riskalign.errors import InputError

TruncationMode: TypeAlias = Literal["keep_end", "keep_start"]
TRUNCATION_MODES: tuple[TruncationMode, ...] = ("keep_end", "keep_start")

_BEFORE = ("\n", "a", "0", ".", "(", "|")

logger = logging.getLogger(__name__)


class PairGaps(TypedDict, total=False):
    """Where a pair's responses of several turns have tokens that the template writes between them.

    Starts and ends in turn; nothing is predicted there.
    """

    chosen_gaps: list[int]
    rejected_gaps: list[int]


class TokenizedPair(PairGaps):
    """One pair as token ids; responses end with their end token unless they were cut."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    gap: float
    length: int


class Answer(NamedTuple):
    """A response as token ids, and its gaps as in `PairGaps`."""

    ids: list[int]
    gaps: list[int]


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

    def summary(self) -> str:
        """One line naming what is not zero."""
        words = (f"{n} {name.replace('_', ' ')}" for name, n in asdict(self).items() if n)
        return ", ".join(words)


def tokenize_pairs(
    pairs: Dataset | list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    max_prompt_length: int | None = None,
    truncation_mode: TruncationMode = "keep_end",
) -> tuple[Dataset, PairCounts]:
    """Tokenize checked rows (see `load_pairs`).

    Messages are rendered with the tokenizer's chat template (`render_chat`): the prompt with the
    opening of the assistant's turn, the response as what the template adds to that, its own end
    token included. Text gets the tokenizer's end token. Prompt and response together take at most
    `max_length` tokens: the prompt gives way first, down to half of `max_length`, losing its
    beginning (`keep_end`) or its end (`keep_start`); a response that is still too long is cut,
    loses its end token (it does not end there), and is counted. Pairs with an empty response,
    and pairs whose responses are the same tokens after cutting, are dropped and counted.

    Args:
        pairs: columns `prompt`, `chosen`, `rejected` and, optionally, the two scores.
        tokenizer: its chat template is needed for messages, its `eos_token` for text.
        max_length: tokens of a prompt and one response together; None for no limit.
        max_prompt_length: tokens of the prompt; None for no limit of its own.
        truncation_mode: which part of a long prompt is kept.

    Returns:
        A data set with the fields of `TokenizedPair` (`gap` is
        `score_chosen - score_rejected`, NaN without scores; `length` the tokens of prompt and
        both responses) and the counts.

    Raises:
        InputError: no chat template or end token where one is needed, or no pair is left.
    """
    columns: dict[str, list[Any]] = {name: [] for name in TokenizedPair.__annotations__}
    rows = empty = identical = cut_prompts = cut_responses = 0
    for pair in pairs:
        rows += 1
        if is_empty(pair["chosen"]) or is_empty(pair["rejected"]):
            empty += 1
            continue
        with in_row(rows):
            whole, sides = tokenize_answers(
                pair["prompt"],
                (pair["chosen"], pair["rejected"]),
                tokenizer,
                given_fields(pair),
            )
        ids = whole, sides[0].ids, sides[1].ids
        prompt, chosen, rejected = truncate(*ids, max_length, max_prompt_length, truncation_mode)
        if chosen == rejected:
            identical += 1
            continue
        cut_prompts += len(prompt) < len(ids[0])
        cut_responses += (len(chosen) < len(ids[1])) + (len(rejected) < len(ids[2]))
        columns["prompt_ids"].append(np.asarray(prompt, dtype=np.int32))
        columns["chosen_ids"].append(np.asarray(chosen, dtype=np.int32))
        columns["rejected_ids"].append(np.asarray(rejected, dtype=np.int32))
        columns["chosen_gaps"].append(sides[0].gaps)
        columns["rejected_gaps"].append(sides[1].gaps)
        columns["gap"].append(_gap(pair))
        columns["length"].append(len(prompt) + len(chosen) + len(rejected))
    kept = len(columns["gap"])
    counts = PairCounts(rows, kept, empty, identical, cut_prompts, cut_responses)
    report_counts(counts, "preference pair")
    ids_feature = [Value("int32")]
    features = Features(
        prompt_ids=ids_feature,
        chosen_ids=ids_feature,
        rejected_ids=ids_feature,
        chosen_gaps=ids_feature,
        rejected_gaps=ids_feature,
        gap=Value("float64"),
        length=Value("int32"),
    )
    return Dataset.from_dict(columns, features=features), counts


@contextmanager
def in_row(number: int) -> Iterator[None]:
    """Say in what is raised which row it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"row {number}: {error}") from error


def report_counts(counts: PairCounts, what: str) -> None:
    """Warn of rows that were dropped or cut; `InputError` if none is left."""
    if not counts.kept:
        raise InputError(
            f"No {what} is left to train on ({counts.summary() or 'no rows'}). "
            "Give rows whose responses differ and are not empty."
        )
    if any(n for name, n in asdict(counts).items() if name not in ("rows", "kept")):
        logger.warning("%ss: %s.", what.capitalize(), counts.summary())


def tokenize_pair(
    pair: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int], list[int]]:
    """Token ids of prompt, chosen and rejected, not truncated; the prompt is never empty.

    Raises:
        InputError: no chat template or end token where one is needed.
    """
    responses = (pair["chosen"], pair["rejected"])
    prompt_ids, (chosen_ids, rejected_ids) = tokenize_responses(
        pair["prompt"], responses, tokenizer, given_fields(pair)
    )
    return prompt_ids, chosen_ids, rejected_ids


def tokenize_responses(
    prompt: Text,
    responses: tuple[Any, ...],
    tokenizer: PreTrainedTokenizerBase,
    rendering: Rendering | None = None,
) -> tuple[list[int], list[list[int]]]:
    """`tokenize_answers` without the gaps."""
    prompt_ids, answers = tokenize_answers(prompt, responses, tokenizer, rendering)
    return prompt_ids, [answer.ids for answer in answers]


def tokenize_answers(
    prompt: Text,
    responses: tuple[Any, ...],
    tokenizer: PreTrainedTokenizerBase,
    rendering: Rendering | None = None,
) -> tuple[list[int], list[Answer]]:
    """Token ids of a prompt, never empty, and of each of its responses, not truncated.

    `rendering` is what the chat template is given beside the messages.

    Raises:
        InputError: no chat template or end token where one is needed.
    """
    special = isinstance(prompt, str)
    if isinstance(prompt, str):
        text, texts = prompt, list(responses)
    else:
        text, texts = render_chat(prompt, responses, tokenizer, rendering)
    prompt_ids = _encode(tokenizer, text, special)
    if not special and tokenizer.bos_token_id is not None:
        _check_start(tokenizer, prompt_ids)
    answers = []
    for response, said in zip(responses, texts, strict=True):
        ids = _response_ids(tokenizer, text, prompt_ids, said, special)
        gaps: list[int] = []
        if not isinstance(prompt, str):
            spans = between_turns(prompt, response, said, tokenizer, rendering)
            gaps = _gap_tokens(tokenizer, text, said, len(prompt_ids), ids, spans)
        answers.append(Answer(ids, gaps))
    if not prompt_ids:
        # The first response token needs a position that predicts it.
        start = tokenizer.bos_token_id
        prompt_ids = [start if start is not None else _eos(tokenizer)]
    return prompt_ids, answers


def _gap_tokens(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    response: str,
    start: int,
    ids: list[int],
    spans: list[tuple[int, int]],
) -> list[int]:
    """Starts and ends of the tokens in `spans` of the response, but for its turns' end tokens.

    `start` is the number of the prompt's tokens. The end of a turn is the token that ends the last
    one, where that comes first in the span.
    """
    if not spans:
        return []
    if not tokenizer.is_fast:
        raise InputError(
            "a response has several turns, of which a tokenizer without offsets does not show what "
            "is the template's. Give what comes before the last turn as 'prompt'."
        )
    joint = tokenizer(
        prompt + response, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    offsets = joint["offset_mapping"][start:]
    n = min(len(offsets), len(ids) - 1)
    if joint["input_ids"][start : start + n] != ids[:n]:
        raise InputError(
            "a response has several turns, and the tokenizer has one token across the end of its "
            "prompt. Give what comes before the last turn as 'prompt'."
        )
    gaps = []
    for first, last in spans:
        inside = [
            i
            for i, (a, b) in enumerate(offsets)
            if first <= a - len(prompt) and b - len(prompt) <= last
        ]
        solid = (k for k, i in enumerate(inside) if str(tokenizer.decode([ids[i]])).strip())
        end = next(solid, None)
        if end is not None and ids[inside[end]] == ids[-1]:
            inside = inside[end + 1 :]
        if inside:
            gaps += [inside[0], inside[-1] + 1]
    return gaps


def _check_start(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int]) -> None:
    """Warn once of a template without the start token that the tokenizer gives every text."""
    start = tokenizer.bos_token_id
    if prompt_ids[:1] != [start] and tokenizer("a")["input_ids"][:1] == [start]:
        _say_no_start(str(tokenizer.name_or_path), str(tokenizer.chat_template))


@lru_cache(maxsize=64)
def _say_no_start(name: str, template: str) -> None:
    logger.warning(
        "The chat template of %s writes no start token, which its tokenizer puts before every "
        "plain text. Training and sampling follow the template.",
        name or "the tokenizer",
    )


def truncate(
    prompt: list[int],
    chosen: list[int],
    rejected: list[int],
    max_length: int | None,
    max_prompt_length: int | None,
    mode: TruncationMode,
) -> tuple[list[int], list[int], list[int]]:
    """Cut the prompt first (not below half of `max_length`), then the responses' ends."""
    longest = max(len(chosen), len(rejected))
    prompt = truncate_prompt(prompt, longest, max_length, max_prompt_length, mode)
    room = None if max_length is None else max_length - len(prompt)
    return prompt, chosen[:room], rejected[:room]


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


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    start, eos = tokenizer.bos_token_id, tokenizer.eos_token
    if special and start is not None and ids[:2] == [start, start]:
        ids = ids[1:]  # the text was rendered with its own
    if special and ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(eos):
        return ids[:-1]  # some tokenizers close every text, even one that goes on
    return ids


def _response_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    prompt_ids: list[int],
    response: str,
    special: bool,
) -> list[int]:
    joint = _encode(tokenizer, prompt + response, special)
    if joint[: len(prompt_ids)] == prompt_ids:
        return _close(joint[len(prompt_ids) :], tokenizer)
    # A token straddles the border, and a model that answers cannot produce it. Alone, a response
    # may get a space or the sign of a new word, and then goes behind something that it cannot be
    # one token with.
    whole = tokenizer.decode(joint)
    for before in ("", prompt[-1:], *_BEFORE):
        start = _encode(tokenizer, before, special=False)
        ids = _encode(tokenizer, before + response, special=False)
        own = ids[len(start) :]
        if ids[: len(start)] == start and tokenizer.decode(prompt_ids + own) == whole:
            return _close(own, tokenizer)
    raise InputError(
        f"the tokenizer has no tokens for {response[:20]!r} behind {prompt[-20:]!r}. Part prompt "
        "and response where a word begins."
    )


def _close(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ends = {*tokenizer.all_special_ids}
    ends.update(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    if tokenizer.unk_token_id != tokenizer.eos_token_id:
        ends.discard(tokenizer.unk_token_id)  # text that the vocabulary lacks, not an end
    n = len(ids)
    while n and ids[n - 1] not in ends and not str(tokenizer.decode([ids[n - 1]])).strip():
        n -= 1
    if n and ids[n - 1] in ends:
        return ids[:n]  # white space after the end token is never generated
    return [*ids, _eos(tokenizer)]


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    eos = tokenizer.eos_token_id
    if not isinstance(eos, int):
        raise InputError("The tokenizer has no end token. Set tokenizer.eos_token.")
    return eos


def is_empty(response: Text) -> bool:
    """Whether a response has nothing but white space, no call and no reasoning."""
    if isinstance(response, str):
        return not response.strip()
    return not any(message["content"].strip() or said_fields(message) for message in response)


def _gap(pair: Mapping[str, Any]) -> float:
    chosen, rejected = pair.get("score_chosen"), pair.get("score_rejected")
    if chosen is None or rejected is None:
        return math.nan
    return float(chosen) - float(rejected)
