"""From rows to token ids: chat templates, end tokens, truncation."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from datasets import Dataset, Features, Value
from transformers import PreTrainedTokenizerBase

from riskalign.data.chat import between_turns, render_chat
from riskalign.data.fields import Text, given_fields, is_empty
from riskalign.data.schema import PAIRS, answers_of, shape_of
from riskalign.data.template import warn_once
from riskalign.errors import InputError

TruncationMode: TypeAlias = Literal["keep_end", "keep_start"]

_BEFORE = ("\n", "a", "0", ".", "(", "|")

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """A response as token ids, and its gaps as in `Shape.tokenized`."""

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


class Tokenized(NamedTuple):
    """Tokenized rows, and what became of those that they were made of."""

    rows: Dataset
    counts: PairCounts


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
        and all responses), and the counts.

    Raises:
        InputError: names the row; no chat template or end token where needed, or no row is left.
    """
    made: list[dict[str, Any]] = []
    shape = PAIRS
    n = empty = identical = cut_prompts = cut_responses = 0
    for n, row in enumerate(rows, start=1):
        shape = shape_of(row)
        texts = answers_of(row)
        full = [i for i, text in enumerate(texts) if not is_empty(text)]
        scores = [row["scores"][i] for i in full] if "scores" in row else None
        empty += len(texts) - len(full) if scores is not None else len(full) < len(texts)
        if scores is None and len(full) < len(texts):
            continue
        try:
            whole, answers = tokenize_answers(
                row["prompt"], tuple(texts[i] for i in full), tokenizer, given_fields(row)
            )
        except InputError as error:
            raise InputError(f"row {n}: {error}") from error
        ids = [answer.ids for answer in answers]
        prompt, kept = truncate(whole, ids, max_length, max_prompt_length, truncation_mode)
        alike = len(texts) > 1 and len({tuple(answer) for answer in kept}) < 2
        if alike or (scores is not None and not ties and len({*scores}) < 2):
            identical += 1
            continue
        cut_prompts += len(prompt) < len(whole)
        cut_responses += sum(len(a) < len(b) for a, b in zip(kept, ids, strict=True))
        columns = _columns(row, kept, [answer.gaps for answer in answers], scores)
        columns["prompt_ids"] = np.asarray(prompt, dtype=np.int32)
        columns["length"] = len(prompt) + sum(map(len, kept))
        made.append(columns)
    counts = PairCounts(n, len(made), empty, identical, cut_prompts, cut_responses)
    if not made:
        words = counts.summary() or "no rows"
        raise InputError(f"No {shape.one} is left to train on ({words}). {shape.remedy}")
    if any(value for name, value in asdict(counts).items() if name not in ("rows", "kept")):
        logger.warning("%ss: %s.", shape.one.capitalize(), counts.summary())
    features = {"prompt_ids": [Value("int32")], **shape.tokenized, "length": Value("int32")}
    table = {name: [row[name] for row in made] for name in features}
    return Tokenized(Dataset.from_dict(table, features=Features(features)), counts)


def _columns(
    row: Mapping[str, Any], answers: list[list[int]], gaps: list[list[int]], scores: Any
) -> dict[str, Any]:
    """The columns of a tokenized row that are its shape's own."""
    ids = [np.asarray(answer, dtype=np.int32) for answer in answers]
    if scores is not None:
        return {"completions_ids": ids, "completions_gaps": gaps, "scores": scores}
    chosen, rejected = row.get("score_chosen"), row.get("score_rejected")
    gap = math.nan if chosen is None or rejected is None else chosen - rejected
    columns: dict[str, Any] = {"label": row.get("label"), "gap": gap}
    for name, of_answer, its_gaps in zip(shape_of(row).answers, ids, gaps, strict=True):
        columns |= {f"{name}_ids": of_answer, f"{name}_gaps": its_gaps}
    return columns


def tokenize_responses(
    prompt: Text,
    responses: tuple[Any, ...],
    tokenizer: PreTrainedTokenizerBase,
    rendering: Mapping[str, Any] | None = None,
) -> tuple[list[int], list[list[int]]]:
    """`tokenize_answers` without the gaps."""
    prompt_ids, answers = tokenize_answers(prompt, responses, tokenizer, rendering)
    return prompt_ids, [answer.ids for answer in answers]


def tokenize_answers(
    prompt: Text,
    responses: tuple[Any, ...],
    tokenizer: PreTrainedTokenizerBase,
    rendering: Mapping[str, Any] | None = None,
) -> tuple[list[int], list[Answer]]:
    """Token ids of a prompt, never empty, and of each of its responses, not truncated.

    `rendering` is what the chat template is given beside the messages (`given_fields`). Raises
    `InputError` for no chat template or end token where one is needed.
    """
    special = isinstance(prompt, str)
    if isinstance(prompt, str):
        text, texts = prompt, list(responses)
    else:
        text, texts = render_chat(prompt, responses, tokenizer, rendering)
    prompt_ids = _encode(tokenizer, text, special)
    start = tokenizer.bos_token_id
    bare = not special and start is not None and prompt_ids[:1] != [start]
    if bare and tokenizer("a")["input_ids"][:1] == [start]:
        warn_once(
            f"The chat template of {tokenizer.name_or_path or 'the tokenizer'} writes no start "
            "token, which its tokenizer puts before every plain text. Training and sampling follow "
            "the template.",
            str(tokenizer.chat_template),
        )
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
    remedy = "Give what comes before the last turn as 'prompt'."
    if not tokenizer.is_fast:
        raise InputError(
            "a response has several turns, of which a tokenizer without offsets does not show what "
            f"is the template's. {remedy}"
        )
    joint = tokenizer(
        prompt + response, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    offsets = joint["offset_mapping"][start:]
    n = min(len(offsets), len(ids) - 1)
    if joint["input_ids"][start : start + n] != ids[:n]:
        raise InputError(
            "a response has several turns, and the tokenizer has one token across the end of its "
            f"prompt. {remedy}"
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
