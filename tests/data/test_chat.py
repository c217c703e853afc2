"""What is trained on, over many chat templates: prompt and response, exactly as text."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from riskalign.data import load_pairs, tokenize_rows
from riskalign.data.chat import render_chat
from riskalign.data.encode import tokenize_answers, tokenize_responses
from riskalign.errors import InputError
from riskalign.models.sampling import prompt_token_ids
from riskalign.worlds import Prompt
from tests import tiny
from tests.data.chat_templates import BLOCK, REASONED, STYLES, TAGGED, Style

Messages = list[dict[str, str]]

#: Answers of which most are also parts of templates' own text.
ANSWERS = [
    "Today.", "d", "m", "e", "end", "assistant", "user", "s", "<", "|", "think", "A", "\\", "]",
    "Today.\n\nOr later.", " padded ", "im_end", "When?", REASONED, TAGGED,
]  # fmt: skip


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def prompts(style: Style) -> list[Messages]:
    asked = [turn("user", "When?")]
    found = [asked, [*asked, turn("assistant", "end"), turn("user", "d")]]
    if style.system:
        found.append([turn("system", "Be brief."), *asked])
    return found


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny.make_tokenizer()


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_prompt_and_response_are_right(style: Style, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = style.template()
    for prompt in prompts(style):
        responses = tuple([turn("assistant", answer)] for answer in ANSWERS)
        rendered, texts = render_chat(prompt, responses, tokenizer)
        assert rendered == style.prompt(prompt)
        assert dict(zip(ANSWERS, texts, strict=True)) == {
            answer: style.response(answer) for answer in ANSWERS
        }
        # What a sampler asks with is what is trained on, and nothing is lost in tokens.
        prompt_ids, ids = tokenize_responses(prompt, responses, tokenizer)
        assert prompt_ids == prompt_token_ids(tokenizer, Prompt("p", tuple(prompt)))
        assert tokenizer.decode(prompt_ids) == rendered
        for text, own in zip(texts, ids, strict=True):
            ended = text.rstrip() if text.rstrip().endswith("<|im_end|>") else text + "<|im_end|>"
            assert tokenizer.decode(own) == ended


def test_there_are_forty_templates() -> None:
    assert len({style.template() for style in STYLES}) >= 40


ISSUE = next(style for style in STYLES if style.name == "issue").template()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(REASONED, REASONED + "<|im_end|>"), ("d", "d<|im_end|>"), (TAGGED, REASONED + "<|im_end|>")],
)
def test_template_that_keeps_only_what_follows_the_reasoning(
    answer: str, expected: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer.chat_template = ISSUE
    found = render_chat([turn("user", "When?")], ([turn("assistant", answer)],), tokenizer)
    assert found == ("[U]When?[A]<think>\n", [expected])


def test_several_turns_of_the_model_are_all_kept(tokenizer: PreTrainedTokenizerFast) -> None:
    response = [turn("assistant", "d"), turn("assistant", "Second.")]
    asked = [turn("user", "When?")]
    tokenizer.chat_template = ISSUE
    assert render_chat(asked, (response,), tokenizer)[1] == ["d<|im_end|>[A]Second.<|im_end|>"]
    tokenizer.chat_template = tiny.CHAT_TEMPLATE
    assert render_chat(asked, (response,), tokenizer)[1] == [
        "d<|im_end|>\n<|im_start|>assistant\nSecond.<|im_end|>\n"
    ]


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_between_turns_of_the_model_nothing_is_trained_on(
    style: Style, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer.chat_template = style.template()
    asked = [turn("user", "When?")]
    response = [turn("assistant", content) for content in ("d", "Or so.", "Or not.")]
    _, (text,) = render_chat(asked, (response,), tokenizer)
    _, (answer, single) = tokenize_answers(asked, (response, response[-1:]), tokenizer)
    assert single.gaps == []
    header, end = style.answer
    header += "<think></think>" if style.thinking == "empty" else ""
    gaps = [end + header, end + header + (BLOCK if style.thinking == "parse" else "")]
    # The turn's end is the model's, where it is a token that ends the last turn as well.
    own = "<|im_end|>" if end.startswith("<|im_end|>") else ""
    assert [
        tokenizer.decode(answer.ids[first:last])
        for first, last in zip(answer.gaps[::2], answer.gaps[1::2], strict=True)
    ] == [gap.removeprefix(own) for gap in gaps]
    kept = [
        token
        for i, token in enumerate(answer.ids)
        if not any(a <= i < b for a, b in zip(answer.gaps[::2], answer.gaps[1::2], strict=True))
    ]
    start = text[: text.index("d" + gaps[0])]
    assert tokenizer.decode(kept) == (
        f"{start}d{own}Or so.{own}" + str(tokenizer.decode(single.ids))[len(start) :]
        if style.thinking != "parse"
        else f"{start}d{own}Or so.{own}Or not.<|im_end|>"
    )


def test_a_token_that_begins_in_the_gap_and_says_something_is_kept(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.chat_template = next(s for s in STYLES if s.name == "falcon").template()
    response = [turn("assistant", "d"), turn("assistant", "assistant")]
    _, (answer,) = tokenize_answers([turn("user", "When?")], (response,), tokenizer)
    first, last = answer.gaps
    assert tokenizer.decode(answer.ids[first:last]) == "\nFalcon:"
    assert tokenizer.decode([answer.ids[last]]) == " a"


def test_turns_whose_border_is_not_shown_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content | replace('b', '') }};{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    response = [turn("assistant", "d"), turn("assistant", "b")]
    pair = {"prompt": [turn("user", "When?")], "chosen": response, "rejected": response[:1]}
    with pytest.raises(InputError, match=r"row 1: .*does not show"):
        tokenize_rows(load_pairs([pair]), tokenizer, max_length=None)


def test_turns_of_others_are_never_trained_on(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = ISSUE
    asked, good = [turn("user", "When?")], [turn("assistant", "Now.")]
    long = [turn("assistant", "First."), turn("user", "And?"), turn("assistant", "Second.")]
    words = r"row 2: a response has a turn of role 'user'.*'prompt'"
    rows = [(good, [turn("assistant", "b")]), (long, good)]
    pairs = [{"prompt": asked, "chosen": a, "rejected": b} for a, b in rows]
    with pytest.raises(InputError, match=words):
        tokenize_rows(load_pairs(pairs), tokenizer, max_length=None)
    single = [{"prompt": asked, "completion": a, "label": True} for a, _ in rows]
    with pytest.raises(InputError, match=words):
        tokenize_rows(single, tokenizer, max_length=None)
    groups = [{"prompt": asked, "completions": [a, b], "scores": [1.0, 0.0]} for a, b in rows]
    with pytest.raises(InputError, match=words):
        tokenize_rows(groups, tokenizer, max_length=None)


@pytest.mark.parametrize(
    "template",
    [
        # No answer at all, an answer that is changed, one that is written twice.
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
        "{% for m in messages %}{{ m.role }}{{ m.content | upper }};{% endfor %}",
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        # Another opening than the one that the model is asked with.
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}(go){% endif %}",
    ],
)
def test_what_cannot_be_found_is_refused(template: str, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = template
    tokenizer.name_or_path = "some/model"
    pair = {k: [turn(role, k)] for k, role in (("prompt", "user"), ("chosen", "assistant"))}
    rows = [{**pair, "rejected": [turn("assistant", "b")]}]
    with pytest.raises(InputError, match=r"row 1: the chat template of 'some/model' does not show"):
        tokenize_rows(load_pairs(rows), tokenizer, max_length=None)


def test_reasoning_behind_an_opening_that_closes_it_is_refused(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}[U]{{ m.content }}{% else %}"
        "[A]</think>{{ m.content.split('</think>')[-1] }}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[A]</think>{% endif %}"
    )
    asked = [turn("user", "When?")]
    assert render_chat(asked, ([turn("assistant", "d")],), tokenizer)[1] == ["d<|im_end|>"]
    with pytest.raises(InputError, match="does not show"):
        render_chat(asked, ([turn("assistant", REASONED)],), tokenizer)


def test_earlier_turns_that_are_rewritten_change_nothing(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    # Only the last answer keeps its reasoning, so the prompt is not the beginning of the whole.
    tokenizer.chat_template = (
        "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
        "[{{ m.role }}]{{ m.content if loop.index0 == ns.last or m.role == 'user' else "
        "m.content.split('</think>')[-1].strip() }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    asked = [turn("user", "a"), turn("assistant", REASONED), turn("user", "a")]
    rendered, texts = render_chat(asked, ([turn("assistant", TAGGED)],), tokenizer)
    assert rendered.startswith(f"[user]a<|im_end|>[assistant]{REASONED}<|im_end|>[user]a")
    assert texts == [TAGGED + "<|im_end|>"]


def test_without_a_prompt_the_opening_is_not_trained_on(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.chat_template = tiny.CHAT_TEMPLATE
    found: Any = render_chat([], ([turn("assistant", "d")], [turn("assistant", "m")]), tokenizer)
    assert found == ("<|im_start|>assistant\n", ["d<|im_end|>\n", "m<|im_end|>\n"])
