"""Prompt and response as tokens give the joined text, whatever the kind of tokenizer."""

import logging
import string
from collections.abc import Callable

import pytest
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from riskalign.data.encode import tokenize_responses
from riskalign.errors import InputError
from riskalign.models.sampling import prompt_token_ids
from riskalign.worlds import Prompt
from tests import tiny

TEXTS = ["Assistant: Hello", "the code is Hello there", "Ask:\nyes no", "door code. yes"]
SIGNS = string.ascii_letters + string.digits + string.punctuation
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def byte_level(prefix: bool) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    return trained(made)


def tiktoken() -> Tokenizer:
    made = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    return trained(made)


def trained(made: Tokenizer) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=330, show_progress=False, initial_alphabet=alphabet, special_tokens=SPECIAL
    )
    made.train_from_iterator(TEXTS * 3, trainer)
    return made


def unigram(scheme: str) -> Tokenizer:
    words = ["▁Hello", "▁Assistant", "Hello", "▁code", "▁yes", "▁no", "▁Ask", "▁▁", "code"]
    scores = [(token, 0.0) for token in SPECIAL + BYTES]
    scores += [(word, -2.0) for word in words] + [(sign, -4.0) for sign in "▁" + SIGNS]
    made = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    made.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)]
    )
    return made


def sentencepiece_bpe() -> Tokenizer:
    tokens = [*SPECIAL, *BYTES, "▁", *SIGNS, "▁H", "▁He", "ll", "▁Hell", "▁Hello", "co", "de"]
    tokens += ["code", "He", "Hell", "Hello"]
    merges = [("▁", "H"), ("H", "e"), ("▁H", "e"), ("l", "l"), ("▁He", "ll"), ("▁Hell", "o")]
    merges += [("He", "ll"), ("Hell", "o"), ("c", "o"), ("d", "e"), ("co", "de")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return made


def word_piece() -> Tokenizer:
    words = ["assistant", "hello", "ask", "yes", "code", "co", "grosse"]
    pieces = [*SIGNS.lower(), *words, *(f"##{sign}" for sign in SIGNS.lower())]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(SPECIAL + pieces))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return made


def word_level() -> Tokenizer:
    words = [*SPECIAL, *string.punctuation, "Assistant", "Hello", "Ask", "yes", "code", "co", "de"]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def characters() -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *BYTES, *SIGNS, " "])}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": lambda: byte_level(False),
    "byte-level, space before": lambda: byte_level(True),
    "tiktoken": tiktoken,
    "unigram, space before": lambda: unigram("always"),
    "unigram, space before the first": lambda: unigram("first"),
    "unigram": lambda: unigram("never"),
    "sentencepiece bpe": sentencepiece_bpe,
    "characters": characters,
    "word pieces": word_piece,
    "words": word_level,
}
LOSSY = ("word pieces", "words")

CASES = [
    ("Assistant: ", "Hello"),
    ("Assistant:", " Hello"),
    ("Assistant: ", " Hello"),
    ("Assistant:  ", "  Hello"),
    ("Ask:\n", "yes"),
    ("Ask:\n\n", "\nyes"),
    ("co", "de"),
    ("code", "."),
    ("Größe: ", "Äpfel €"),
    ("Ask: ", "日本"),
    ("Ask", ": yes"),
]


def wrapped(made: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_response_decode_to_the_joined_text(kind: str) -> None:
    tokenizer = wrapped(KINDS[kind]())
    for prompt, response in CASES:
        if (kind, prompt) == ("words", "co"):
            with pytest.raises(InputError, match="no tokens for 'de' behind 'co'"):
                tokenize_responses(prompt, (response,), tokenizer)
            continue
        prompt_ids, (ids,) = tokenize_responses(prompt, (response,), tokenizer)
        assert ids[-1] == tokenizer.eos_token_id
        found = str(tokenizer.decode([*prompt_ids, *ids[:-1]]))
        joined = prompt + response
        if kind in LOSSY:
            joined = str(tokenizer.decode(tokenizer(joined, add_special_tokens=False)["input_ids"]))
        # One space is put before a text by some, and not taken off again.
        assert found.removeprefix(" ") == joined, (prompt, response)
        assert prompt_ids == tokenizer(prompt)["input_ids"]


def starting(chat_template: str) -> PreTrainedTokenizerFast:
    """A tokenizer that puts a start token before every text."""
    made = tiny.make_tokenizer(chat_template=chat_template)
    made.bos_token = "<|im_start|>"
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", made.bos_token_id)]
    )
    return made


TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
ASKED, SAID = [{"role": "user", "content": "When?"}], [{"role": "assistant", "content": "Now."}]


def test_rendered_text_has_one_start_token() -> None:
    tokenizer = starting("")
    start = tokenizer.bos_token_id
    for prompt in ("<|im_start|>[user]When?", "[user]When?"):
        ids, (response,) = tokenize_responses(prompt, (" Now.",), tokenizer)
        assert tokenizer.decode(ids) == "<|im_start|>[user]When?"
        assert tokenizer.decode(response) == " Now.<|im_end|>"
    assert tokenize_responses("", ("Now.",), tokenizer)[0] == [start]
    assert tokenize_responses("<|im_start|>", ("Now.",), tokenizer)[0] == [start]


def test_a_template_has_its_own_start_token_and_is_told_of_where_it_has_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    template = (
        TURNS.replace("[assistant]", "") + "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokenizer = starting("{{ bos_token }}" + template)
    ids, (response,) = tokenize_responses(ASKED, (SAID,), tokenizer)
    asked = Prompt("p", tuple(ASKED))
    assert tokenizer.decode(ids) == "<|im_start|>[user]When?[assistant]"
    assert ids.count(tokenizer.bos_token_id) == 1
    assert prompt_token_ids(tokenizer, asked) == ids
    assert tokenizer.decode(response) == "Now.<|im_end|>"
    assert not caplog.text
    assert tokenizer("[user]")["input_ids"][0] == tokenizer.bos_token_id
    ids, (response,) = tokenize_responses(ASKED, (SAID,), starting(template))
    assert tokenizer.decode(ids) == "[user]When?[assistant]"
    assert tokenizer.bos_token_id not in ids + response
    assert prompt_token_ids(starting(template), asked) == ids
    tokenize_responses(ASKED, (SAID,), starting(template))
    assert caplog.text.count("writes no start token") == 1
