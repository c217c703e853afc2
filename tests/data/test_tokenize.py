"""Chat templates, end tokens, truncation and what is counted."""

import math
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from riskalign.data import load_pairs, tokenize_rows
from riskalign.data.encode import tokenize_responses
from riskalign.data.tokenize import PairCounts, truncate
from riskalign.errors import InputError
from tests import tiny

USER = [{"role": "user", "content": "When?"}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def texts(tokenizer: PreTrainedTokenizerFast, pair: dict[str, Any]) -> list[str]:
    prompt_ids, responses = tokenize_sides(pair, tokenizer)
    return [str(tokenizer.decode(ids)) for ids in (prompt_ids, *responses)]


def tokenize_sides(
    pair: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> tuple[list[int], list[list[int]]]:
    return tokenize_responses(pair["prompt"], (pair["chosen"], pair["rejected"]), tokenizer)


def test_chat_template_gives_the_end_token_once(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    pair = {"prompt": USER, "chosen": assistant("Today."), "rejected": assistant("No.")}
    assert texts(tiny_tokenizer, pair) == [
        "<|im_start|>user\nWhen?<|im_end|>\n<|im_start|>assistant\n",
        "Today.<|im_end|>",
        "No.<|im_end|>",
    ]


def test_prompt_ending_in_an_answer_is_continued(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tiny_tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}"
        "{% if not loop.last %};{% endif %}{% endfor %}"
        "{% if add_generation_prompt %};assistant:{% endif %}"
    )
    prompt = USER + assistant("It is")
    pair = {"prompt": prompt, "chosen": assistant("a"), "rejected": assistant("b")}
    assert texts(tiny_tokenizer, pair)[:2] == [
        "user:When?;assistant:It is",
        ";assistant:a<|im_end|>",
    ]


def test_template_that_rewrites_the_prompt_keeps_the_answer(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    tiny_tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]<think>{% endif %}"
    )
    pair = {"prompt": USER, "chosen": assistant("a"), "rejected": assistant("b")}
    assert texts(tiny_tokenizer, pair) == [
        "[user]When?<|im_end|>[assistant]<think>",
        "a<|im_end|>",
        "b<|im_end|>",
    ]


def test_text_gets_the_end_token_and_never_two(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    pair = {"prompt": "Ask:", "chosen": " yes", "rejected": " no<|im_end|>"}
    assert texts(tiny_tokenizer, pair) == ["Ask:", " yes<|im_end|>", " no<|im_end|>"]


def test_unknown_text_at_the_end_is_no_end_token() -> None:
    words = {"<unk>": 0, "</s>": 1, "yes": 2, "no": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>"
    )
    pair = {"prompt": "yes", "chosen": " no never", "rejected": " no </s>"}
    assert tokenize_sides(pair, wrapped) == ([2], [[3, 0, 1], [3, 1]])


def test_token_across_the_border_is_split(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    joint = tiny_tokenizer("code")["input_ids"]
    prompt_ids, (chosen_ids, _) = tokenize_sides(
        {"prompt": "co", "chosen": "de", "rejected": "x"}, tiny_tokenizer
    )
    assert joint[: len(prompt_ids)] != prompt_ids  # the case is what it claims to be
    assert tiny_tokenizer.decode(prompt_ids + chosen_ids) == "code<|im_end|>"


def test_empty_prompt_gets_a_start(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    pair = {"prompt": "", "chosen": "a", "rejected": "b"}
    assert tokenize_sides(pair, tiny_tokenizer)[0] == [tiny_tokenizer.eos_token_id]
    tiny_tokenizer.bos_token = "<|im_start|>"
    assert tokenize_sides(pair, tiny_tokenizer)[0] == [tiny_tokenizer.bos_token_id]


def test_tokenizer_that_closes_every_text(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    from tokenizers.processors import TemplateProcessing

    tiny_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", 1)]
    )
    pair = {"prompt": "Ask:", "chosen": " yes", "rejected": " no"}
    assert texts(tiny_tokenizer, pair) == ["Ask:", " yes<|im_end|>", " no<|im_end|>"]


@pytest.mark.parametrize(
    ("max_length", "max_prompt_length", "mode", "expected"),
    [
        (None, None, "keep_end", ([1, 2, 3, 4], [5, 6, 7], [8])),
        (7, None, "keep_end", ([1, 2, 3, 4], [5, 6, 7], [8])),
        (6, None, "keep_end", ([2, 3, 4], [5, 6, 7], [8])),
        (6, None, "keep_start", ([1, 2, 3], [5, 6, 7], [8])),
        # Half of 4 is kept for the prompt, then the longer response is cut.
        (4, None, "keep_end", ([3, 4], [5, 6], [8])),
        (2, None, "keep_end", ([4], [5], [8])),
        (None, 2, "keep_end", ([3, 4], [5, 6, 7], [8])),
        (6, 1, "keep_start", ([1], [5, 6, 7], [8])),
    ],
)
def test_prompt_gives_way_first(
    max_length: int | None, max_prompt_length: int | None, mode: Any, expected: tuple[Any, ...]
) -> None:
    cut = truncate([1, 2, 3, 4], [[5, 6, 7], [8]], max_length, max_prompt_length, mode)
    assert cut == (expected[0], list(expected[1:]))


def test_everything_dropped_or_cut_is_counted(
    tiny_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 3, "score_rejected": 1},
        {"prompt": "a", "chosen": "same", "rejected": "same"},
        {"prompt": "a", "chosen": " ", "rejected": "c"},
        {"prompt": "a" * 40, "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b" * 40, "rejected": "c" * 40},
        {"prompt": "a", "chosen": "b" * 40, "rejected": "b" * 41},
    ]
    pairs, counts = tokenize_rows(load_pairs(rows), tiny_tokenizer, max_length=16)
    assert counts == PairCounts(
        rows=6,
        kept=3,
        dropped_empty=1,
        dropped_identical=2,
        truncated_prompts=1,
        truncated_responses=2,
    )
    eos = tiny_tokenizer.eos_token_id
    assert [pair["chosen_ids"][-1] == eos for pair in pairs] == [True, True, False]
    assert pairs["gap"][0] == 2.0
    assert math.isnan(pairs["gap"][1])
    assert pairs["length"][0] == 1 + 2 + 2
    assert "6 rows, 3 kept, 1 dropped empty, 2 dropped identical" in caplog.text


def test_nothing_left_is_an_error(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "b"}]
    with pytest.raises(InputError, match="1 dropped identical"):
        tokenize_rows(load_pairs(rows), tiny_tokenizer, max_length=16)


def test_messages_need_a_chat_template() -> None:
    tokenizer = tiny.make_tokenizer(chat_template=None)
    with pytest.raises(InputError, match="no chat template"):
        tokenize_rows(load_pairs(tiny.make_pairs(1)), tokenizer, max_length=64)


def test_template_that_refuses_is_named(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tiny_tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match=r"refuses messages with roles .system.*must alternate"):
        tokenize_rows(load_pairs(tiny.make_pairs(1)), tiny_tokenizer, max_length=64)


def test_text_needs_an_end_token(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tiny_tokenizer.eos_token = None
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    with pytest.raises(InputError, match="no end token"):
        tokenize_rows(load_pairs(rows), tiny_tokenizer, max_length=16)
