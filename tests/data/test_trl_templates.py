"""Prompt and response are what the templates write that TRL comes with, where it is installed."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from riskalign.data.chat import between_turns, render_chat
from riskalign.errors import InputError
from tests import tiny
from tests.data.chat_templates import REASONED, TAGGED

Turn = dict[str, Any]

_TRL = importlib.util.find_spec("trl")  # is not imported, which takes seconds
FOLDER = Path((_TRL.submodule_search_locations or ["."])[0] if _TRL else ".") / "chat_templates"
TEMPLATES = sorted(FOLDER.glob("*.jinja"))
#: Their contents are lists of parts, which no row here has.
OF_PARTS = ("idefics3", "llava_next", "smolvlm")

pytestmark = pytest.mark.skipif(not TEMPLATES, reason="TRL's chat templates are not installed")


def turn(role: str, content: str, **fields: Any) -> Turn:
    return {"role": role, "content": content, **fields}


ASK = turn("user", "When?")
PROMPTS = ([ASK], [turn("system", "Be brief."), ASK], [ASK, turn("assistant", "end"), ASK])
PLAIN = ("Today.", "d", "assistant", "think", "</", "|>", "channel", " padded ", "Today.\n\nOr so.")
CALL = {
    "type": "function",
    "function": {"name": "find", "arguments": {"day": "May", "n": 3}},
}
CALLED = turn("assistant", "", tool_calls=[CALL])
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find",
            "description": "It looks.",
            "parameters": {"type": "object", "properties": {"day": {"type": "string"}}},
        },
    }
]


def tokenizer_of(template: Path) -> PreTrainedTokenizerFast:
    made = tiny.make_tokenizer(chat_template=template.read_text("utf-8"))
    made.bos_token = "<|im_start|>"
    return made


def dense(text: str) -> str:
    return "".join(text.split())


def is_right(asked: str, said: str, whole: str) -> bool:
    """Whether the two are what the template writes of the whole, whose opening it may rewrite."""
    if whole.startswith(asked):
        return asked + said == whole
    # The model is asked with an open block of reasoning, and there is none in the whole.
    before = dense(asked.rstrip().removesuffix("<think>"))
    skipped = dense(whole).removesuffix(dense(said)).removeprefix(before)
    return asked.endswith("<think>\n") and skipped in ("", "<think>")


def is_refused(written: Callable[[list[Turn]], str], messages: list[Turn]) -> bool:
    try:
        written(messages)
    except Exception:
        return True
    return False


def is_rightly_refused(
    why: str,
    prompt: list[Turn],
    answer: Turn,
    written: Callable[[list[Turn]], str],
    name: str,
) -> bool:
    if "leaves out what 'reasoning_content' says" in why:
        plain = {k: v for k, v in answer.items() if k != "reasoning_content"}
        return written([*prompt, answer]) == written([*prompt, plain])
    if "leaves out what 'content' says" in why:
        return answer["content"] not in written([*prompt, answer])
    if "leaves out what 'tool_calls' says" in why:
        return "May" not in written([ASK, CALLED])
    if "leaves out what 'tools' says" in why:
        return "It looks." not in written([ASK])
    if "does not show where the answer continues" in why:
        return "nothink" in name  # the model is asked behind a closed block
    return "refuses messages with roles" in why and is_refused(written, [ASK, CALLED])


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_answers_are_what_the_template_writes(template: Path) -> None:
    tokenizer = tokenizer_of(template)

    def written(messages: list[Turn]) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))

    if template.stem.startswith(OF_PARTS):
        with pytest.raises(InputError, match="does not show"):
            render_chat([ASK], ([turn("assistant", "Today.")],), tokenizer)
        return
    for prompt in PROMPTS:
        if is_refused(written, prompt):
            assert prompt[0]["role"] == "system"
            with pytest.raises(InputError, match="refuses messages with roles"):
                render_chat(prompt, ([turn("assistant", "Today.")],), tokenizer)
            continue
        answers = (*PLAIN, REASONED, TAGGED) if "nothink" not in template.stem else PLAIN
        responses = tuple([turn("assistant", answer)] for answer in answers)
        asked, texts = render_chat(prompt, responses, tokenizer)
        for response, said in zip(responses, texts, strict=True):
            whole = written(prompt + response)
            content = response[0]["content"]
            if content in (REASONED, TAGGED) and "look" not in whole:
                # Reasoning that the template takes off an answer stays in what is trained on.
                end = texts[0].partition("Today.")[2]
                assert said.endswith(f"look\n</think>\n\nToday.{end}")
                assert (asked + said).count("<think>") <= 1
            else:
                assert is_right(asked, said, whole), said
        two = [turn("assistant", "d"), turn("assistant", "Second.")]
        if is_refused(written, prompt + two):
            with pytest.raises(InputError, match="refuses messages with roles"):
                render_chat(prompt, (two,), tokenizer)
            continue
        _, (said,) = render_chat(prompt, (two,), tokenizer)
        assert is_right(asked, said, written(prompt + two)), said
        ((first, last),) = between_turns(prompt, two, said, tokenizer)
        assert said[:first].endswith("d")
        assert said[last:].startswith("Second.")


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_calls_and_reasoning_are_what_the_template_writes(template: Path) -> None:
    if template.stem.startswith(OF_PARTS):
        pytest.skip("contents are lists of parts")
    tokenizer = tokenizer_of(template)
    told = [ASK, CALLED, turn("tool", "soon", name="find")]
    thought = turn("assistant", "Today.", reasoning_content="look")
    for prompt, answer, tools in (
        ([ASK], thought, None),
        ([ASK], CALLED, None),
        ([ASK], CALLED, TOOLS),
        ([ASK], {**CALLED, "reasoning_content": "look"}, TOOLS),
        ([ASK], {**CALLED, "content": "Wait."}, TOOLS),
        (told, turn("assistant", "Today."), TOOLS),
        (told, thought, TOOLS),
    ):

        def written(messages: list[Turn], tools: Any = tools) -> str:
            return str(tokenizer.apply_chat_template(messages, tools=tools, tokenize=False))

        try:
            asked, (said,) = render_chat(prompt, ([answer],), tokenizer, {"tools": tools or []})
        except InputError as error:
            why = str(error)
            right = is_rightly_refused(why, prompt, answer, written, template.stem)
        else:
            right = is_right(asked, said, written([*prompt, answer]))
            if answer.get("tool_calls"):
                right = right and "find" in said and "May" in said
            if answer.get("reasoning_content"):
                right = right and said.count("look") == 1
            why = said
        assert right, why


def test_there_are_dozens() -> None:
    assert len(TEMPLATES) >= 60
