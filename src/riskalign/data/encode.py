"""Token ids of prompts and responses: where one ends and the other begins, and end tokens."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from riskalign.data.chat import between_turns, render_chat
from riskalign.data.fields import Text
from riskalign.data.template import warn_once
from riskalign.errors import InputError

_BEFORE = ("\n", "a", "0", ".", "(", "|")


class Answer(NamedTuple):
    """A response as token ids, and its gaps as in `Shape.tokenized`."""

    ids: list[int]
    gaps: list[int]


class Written(NamedTuple):
    """A prompt and its responses as text; of each response which parts are the template's own.

    `plain` text was given as text, and gets the tokenizer's special tokens.
    """

    prompt: str
    responses: list[str]
    spans: list[list[tuple[int, int]]]
    plain: bool


class _Tokens(NamedTuple):
    """What a tokenizer takes long to tell, asked once for many texts: special tokens' ids."""

    start: int | None
    eos: Any
    ends: frozenset[int]
    prepends: bool  # writes its start token before every plain text


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
    asked = written(prompt, responses, tokenizer, rendering)
    [found] = tokenize_written([asked], tokenizer)
    if isinstance(found, InputError):
        raise found
    return found


def written(
    prompt: Text,
    responses: tuple[Any, ...],
    tokenizer: PreTrainedTokenizerBase,
    rendering: Mapping[str, Any] | None = None,
) -> Written:
    """A prompt and its responses as the chat template writes them, or as the text that they are."""
    if isinstance(prompt, str):
        return Written(prompt, list(responses), [[] for _ in responses], True)
    text, texts = render_chat(prompt, responses, tokenizer, rendering)
    spans = [
        between_turns(prompt, response, said, tokenizer, rendering)
        for response, said in zip(responses, texts, strict=True)
    ]
    return Written(text, texts, spans, False)


def tokenize_written(
    asked: Sequence[Written], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[list[int], list[Answer]] | InputError]:
    """`tokenize_answers` of each prompt, or its error.

    One call of the tokenizer, which takes a third of the time of many.
    """
    tokens = _tokens_of(tokenizer)
    found: list[tuple[list[int], list[Answer]] | InputError] = []
    ids = iter(_encode_all(tokenizer, asked, tokens))
    for one in asked:
        prompt, *joint = [next(ids) for _ in range(1 + len(one.responses))]
        try:
            found.append(_answers(one, prompt, joint, tokenizer, tokens))
        except InputError as error:
            found.append(error)
    return found


def _tokens_of(tokenizer: PreTrainedTokenizerBase) -> _Tokens:
    ends = {*tokenizer.all_special_ids}
    ends.update(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    if tokenizer.unk_token_id != tokenizer.eos_token_id:
        ends.discard(tokenizer.unk_token_id)  # text that the vocabulary lacks, not an end
    start = tokenizer.bos_token_id
    prepends = start is not None and tokenizer("a")["input_ids"][:1] == [start]
    return _Tokens(start, tokenizer.eos_token_id, frozenset(ends), prepends)


def _encode_all(
    tokenizer: PreTrainedTokenizerBase, asked: Sequence[Written], tokens: _Tokens
) -> list[list[int]]:
    """Of each prompt its ids, and those of the prompt with each response behind it."""
    texts = [one.prompt + response for one in asked for response in ("", *one.responses)]
    kinds = [one.plain for one in asked for _ in range(1 + len(one.responses))]
    found: dict[int, list[int]] = {}
    for plain in {*kinds}:
        own = [i for i, kind in enumerate(kinds) if kind == plain]
        found |= zip(own, _encode(tokenizer, [texts[i] for i in own], plain, tokens), strict=True)
    return [found[i] for i in range(len(texts))]


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], special: bool, tokens: _Tokens
) -> list[list[int]]:
    many: list[list[int]] = tokenizer(
        texts,
        add_special_tokens=special,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    if not special:
        return many
    return [_own(ids, text, tokenizer, tokens) for ids, text in zip(many, texts, strict=True)]


def _own(
    ids: list[int], text: str, tokenizer: PreTrainedTokenizerBase, tokens: _Tokens
) -> list[int]:
    start = tokens.start
    if start is not None and ids[:2] == [start, start]:
        ids = ids[1:]  # the text was rendered with its own
    if ids and ids[-1] == tokens.eos and not text.endswith(tokenizer.eos_token):
        return ids[:-1]  # some tokenizers close every text, even one that goes on
    return ids


def _answers(
    asked: Written,
    prompt_ids: list[int],
    joint: list[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    tokens: _Tokens,
) -> tuple[list[int], list[Answer]]:
    """From the ids of a prompt, and of it with each response, to the prompt's and responses'."""
    start = tokens.start
    if tokens.prepends and not asked.plain and prompt_ids[:1] != [start]:
        warn_once(
            f"The chat template of {tokenizer.name_or_path or 'the tokenizer'} writes no start "
            "token, which its tokenizer puts before every plain text. Training and sampling follow "
            "the template.",
            str(tokenizer.chat_template),
        )
    answers = []
    for said, whole, spans in zip(asked.responses, joint, asked.spans, strict=True):
        ids = _response_ids(asked, prompt_ids, said, whole, tokenizer, tokens)
        gaps = _gap_tokens(tokenizer, asked.prompt, said, len(prompt_ids), ids, spans)
        answers.append(Answer(ids, gaps))
    if not prompt_ids:
        # The first response token needs a position that predicts it.
        prompt_ids = [start if start is not None else _eos(tokenizer)]
    return prompt_ids, answers


def _response_ids(
    asked: Written,
    prompt_ids: list[int],
    response: str,
    joint: list[int],
    tokenizer: PreTrainedTokenizerBase,
    tokens: _Tokens,
) -> list[int]:
    if joint[: len(prompt_ids)] == prompt_ids:
        return _close(joint[len(prompt_ids) :], tokenizer, tokens)
    # A token straddles the border, and a model that answers cannot produce it. Alone, a response
    # may get a space or the sign of a new word, and then goes behind something that it cannot be
    # one token with.
    whole = tokenizer.decode(joint)
    for before in ("", asked.prompt[-1:], *_BEFORE):
        start, ids = _encode(tokenizer, [before, before + response], False, tokens)
        own = ids[len(start) :]
        if ids[: len(start)] == start and tokenizer.decode(prompt_ids + own) == whole:
            return _close(own, tokenizer, tokens)
    raise InputError(
        f"the tokenizer has no tokens for {response[:20]!r} behind {asked.prompt[-20:]!r}. Part "
        "prompt and response where a word begins."
    )


def _close(ids: list[int], tokenizer: PreTrainedTokenizerBase, tokens: _Tokens) -> list[int]:
    ends, n = tokens.ends, len(ids)
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
