"""Tools, calls and reasoning are written as the template does, or refused by name."""

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from riskalign.data import (
    PreferenceSettings,
    load_groups,
    load_pairs,
    load_preferences,
    load_unpaired,
    tokenize_rows,
)
from riskalign.data.chat import render_chat
from riskalign.errors import InputError
from riskalign.evaluation.judges.answers import conversation, read_answers
from riskalign.evaluation.sets import load_prompt_set
from riskalign.models.sampling import prompt_token_ids
from riskalign.scorers.rows import judged_rows
from riskalign.worlds import Prompt
from tests import tiny
from tests.data.chat_templates import (
    CALL_IN_PLACE,
    CALLS_AS_TEXT,
    CALLS_IN_TAGS,
    CHANNELS,
    REASONING_OF_THE_LAST,
)

Turn = dict[str, Any]

ASK: Turn = {"role": "user", "content": "When?"}
TOLD: Turn = {"role": "tool", "name": "find", "tool_call_id": "c1", "content": "soon"}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "It looks."}}
    for name in ("find", "open")
]


def say(content: str, **fields: Any) -> Turn:
    return {"role": "assistant", "content": content, **fields}


def call(name: str = "find", **arguments: Any) -> Turn:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


def tokenizer_of(template: str | None) -> PreTrainedTokenizerFast:
    made = tiny.make_tokenizer(chat_template=template)
    made.name_or_path = "some/model"
    return made


WITHOUT_TOOL_TURNS = CALLS_IN_TAGS.replace(
    "{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}"
)
FIND = call(day="May", n=3, none=None)
JSON = '{"day": "May", "n": 3, "none": null}'
TEXT_CALL = {"function": {"name": "find", "arguments": JSON}}
CASES: list[tuple[str, list[Turn], Turn, str, str]] = [
    # template, prompt, answer, the prompt's text, the answer's
    (CALLS_IN_TAGS, [ASK], say("", tool_calls=[FIND]), "[user]When?<|im_end|>[assistant]",
     f"<tool_call>find {JSON}</tool_call><|im_end|>"),
    (CALLS_IN_TAGS, [ASK], say("", tool_calls=[TEXT_CALL]), "[user]When?<|im_end|>[assistant]",
     f"<tool_call>find {JSON}</tool_call><|im_end|>"),
    (CALLS_IN_TAGS, [ASK], say("", tool_calls=[TEXT_CALL["function"], call("open")]),
     "[user]When?<|im_end|>[assistant]",
     f"<tool_call>find {JSON}</tool_call>\n<tool_call>open {{}}</tool_call><|im_end|>"),
    (CALLS_IN_TAGS, [ASK], say("Wait.", tool_calls=[call()], reasoning_content="look"),
     "[user]When?<|im_end|>[assistant]",
     "<think>look</think>Wait.\n<tool_call>find {}</tool_call><|im_end|>"),
    (CALLS_IN_TAGS, [ASK, say("", tool_calls=[call()]), TOLD], say("Soon."),
     "[user]When?<|im_end|>[assistant]<tool_call>find {}</tool_call><|im_end|>[tool]soon<|im_end|>"
     "[assistant]", "Soon.<|im_end|>"),
    # Answers that are also the template's own text.
    (CALLS_IN_TAGS, [ASK], say("end", reasoning_content="think"),
     "[user]When?<|im_end|>[assistant]", "<think>think</think>end<|im_end|>"),
    (CALLS_IN_TAGS, [ASK], say("call", tool_calls=[call("tool_call", im_end="<|")]),
     "[user]When?<|im_end|>[assistant]",
     'call\n<tool_call>tool_call {"im_end": "<|"}</tool_call><|im_end|>'),
    # No arguments, in every way that they come.
    *((CALLS_IN_TAGS, [ASK], say("", tool_calls=[{"function": {"name": "now", **none}}]),
       "[user]When?<|im_end|>[assistant]", f"<tool_call>now {written}</tool_call><|im_end|>")
      for none, written in (({"arguments": {}}, "{}"), ({"arguments": "{}"}, "{}"))),
    (CALL_IN_PLACE, [ASK], say("", tool_calls=[FIND]), "[user]When?<|im_end|>[assistant]",
     f'{{"name": "find", "parameters": {JSON}}}<|im_end|>'),
    (CALL_IN_PLACE, [ASK, say("", tool_calls=[call()]), TOLD], say("Soon."),
     '[user]When?<|im_end|>[assistant]{"name": "find", "parameters": {}}<|im_end|>'
     "[tool]soon<|im_end|>[assistant]", "Soon.<|im_end|>"),
    (REASONING_OF_THE_LAST, [ASK], say("Today.", reasoning_content="look"),
     "[user]When?<|im_end|>[assistant]<think>\n", "look\n</think>\n\nToday.<|im_end|>"),
    (REASONING_OF_THE_LAST, [ASK], say("", tool_calls=[call(day="May")], reasoning_content="m"),
     "[user]When?<|im_end|>[assistant]<think>\n",
     "m\n</think>\n\n<call find>day=May;</call><|im_end|>"),
    (REASONING_OF_THE_LAST, [ASK], say("", tool_calls=[call(day="May")]),
     "[user]When?<|im_end|>[assistant]<think>\n",
     "\n</think>\n\n<call find>day=May;</call><|im_end|>"),
    (REASONING_OF_THE_LAST,
     [ASK, say("Wait.", tool_calls=[call(day="d")], reasoning_content="look"), TOLD],
     say("Soon.", reasoning_content="it is"),
     "[user]When?<|im_end|>[assistant]Wait.<call find>day=d;</call><|im_end|>[tool]soon<|im_end|>"
     "[assistant]<think>\n", "it is\n</think>\n\nSoon.<|im_end|>"),
    (CHANNELS, [ASK], say("Today.", thinking="look"), "<user>When?<|im_end|><assistant>",
     "!analysis look<|im_end|><assistant>!final Today.<|im_end|>"),
    (CHANNELS, [ASK], say("", thinking="look", tool_calls=[call(day="May")]),
     "<user>When?<|im_end|><assistant>",
     '!analysis look<|im_end|><assistant> to=find!{"day": "May"}<|im_end|>'),
    (CHANNELS, [ASK], say("", tool_calls=[call(day="May")]), "<user>When?<|im_end|><assistant>",
     ' to=find!{"day": "May"}<|im_end|>'),
    (CALLS_AS_TEXT, [ASK], say("Wait.", tool_calls=[TEXT_CALL]),
     "[user]When?<|im_end|>[assistant]", f"Wait.find({JSON})<|im_end|>"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "prompt", "answer", "asked", "said"), CASES)
def test_calls_and_reasoning_are_written(
    template: str, prompt: list[Turn], answer: Turn, asked: str, said: str
) -> None:
    tokenizer = tokenizer_of(template)
    assert render_chat(prompt, ([answer],), tokenizer) == (asked, [said])
    # The same from rows, in tokens, and what a sampler asks with.
    row = {"prompt": prompt, "chosen": [answer], "rejected": [say("No.")]}
    pairs, _ = tokenize_rows(load_pairs([row]), tokenizer, max_length=None)
    assert tokenizer.decode(pairs[0]["prompt_ids"]) == asked
    assert tokenizer.decode(pairs[0]["chosen_ids"]) == said
    assert prompt_token_ids(tokenizer, Prompt("p", tuple(prompt))) == pairs[0]["prompt_ids"]
    group = {"prompt": prompt, "completions": [[answer], [say("No.")]], "scores": [1, 0]}
    groups, _ = tokenize_rows(load_groups([group]), tokenizer, max_length=None)
    assert groups[0]["completions_ids"][0] == pairs[0]["chosen_ids"]
    single = {"prompt": prompt, "completion": [answer], "label": True}
    singles, _ = tokenize_rows(load_unpaired([single]), tokenizer, max_length=None)
    assert singles[0]["completion_ids"] == pairs[0]["chosen_ids"]


ROW: Turn = {"prompt": [ASK], "chosen": [say("", tool_calls=[call()])], "rejected": [say("No.")]}


@pytest.mark.parametrize("given", [TOOLS, json.dumps(TOOLS)])
def test_tools_are_written(given: Any) -> None:
    rows = load_pairs([{**ROW, "tools": given}, ROW])
    for template, asked in (
        (CALLS_IN_TAGS, f"[system]{json.dumps(TOOLS[0])}{json.dumps(TOOLS[1])}<|im_end|>[user]"),
        (CALL_IN_PLACE, "[user]find: It looks.\nopen: It looks.\n"),
    ):
        tokenizer = tokenizer_of(template)
        pairs, _ = tokenize_rows(rows, tokenizer, max_length=None)
        whole = f"{asked}When?<|im_end|>[assistant]"
        assert tokenizer.decode(pairs[0]["prompt_ids"]) == whole
        assert tokenizer.decode(pairs[1]["prompt_ids"]) == "[user]When?<|im_end|>[assistant]"
        assert pairs[0]["chosen_ids"] == pairs[1]["chosen_ids"]
        group = {"prompt": [ASK], "completions": [ROW["chosen"], ROW["rejected"]], "scores": [1, 0]}
        groups, _ = tokenize_rows(load_groups([{**group, "tools": given}]), tokenizer,
                                    max_length=None)  # fmt: skip
        assert groups[0]["prompt_ids"] == pairs[0]["prompt_ids"]
        single = {"prompt": [ASK], "completion": ROW["chosen"], "label": True, "tools": given}
        for unpaired in (load_unpaired([single]), load_unpaired([{**ROW, "tools": given}])):
            found, _ = tokenize_rows(unpaired, tokenizer, max_length=None)
            assert found[0]["prompt_ids"] == pairs[0]["prompt_ids"]


def test_arguments_of_the_template_are_given() -> None:
    tokenizer = tokenizer_of(REASONING_OF_THE_LAST)
    row = {"prompt": [ASK], "chosen": [say("Yes.")], "rejected": [say("No.")]}
    short = {**row, "chat_template_kwargs": {"enable_thinking": False}}
    pairs, _ = tokenize_rows(load_pairs([short, row]), tokenizer, max_length=None)
    asked = "[user]When?<|im_end|>[assistant]<think>\n"
    assert tokenizer.decode(pairs[0]["prompt_ids"]) == f"{asked}\n</think>\n\n"
    assert tokenizer.decode(pairs[0]["chosen_ids"]) == "Yes.<|im_end|>"
    assert tokenizer.decode(pairs[1]["prompt_ids"]) == asked
    assert tokenizer.decode(pairs[1]["chosen_ids"]) == "\n</think>\n\nYes.<|im_end|>"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (say("a", reasoning_content="look"), say("a", reasoning_content="see")),
        (say("a", reasoning_content="look"), say("a")),
        (say("", tool_calls=[call(day="May")]), say("", tool_calls=[call(day="June")])),
        (say("", tool_calls=[call()]), say("", tool_calls=[call(), call("open")])),
    ],
)
def test_answers_that_differ_in_a_field_alone_are_a_pair(
    first: Turn, second: Turn, tmp_path: Path
) -> None:
    for row in (
        {"prompt": [ASK], "chosen": [first], "rejected": [second]},
        {"chosen": [ASK, first], "rejected": [ASK, second]},
    ):
        _, counts = tokenize_rows(load_pairs([row]), tokenizer_of(CALLS_IN_TAGS), max_length=None)
        assert counts.kept == 1
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "\n".join(map(json.dumps, (row, {**row, "rejected": [ASK, say("b")]}))), "utf-8"
    )
    found = load_preferences(PreferenceSettings(path=str(path), eval_fraction=0.0))
    assert found.counts["kept"] == 2


ONE = [say("", tool_calls=[call(day="May")])]


@pytest.mark.parametrize(
    ("template", "prompt", "answer", "more", "field"),
    [
        (tiny.CHAT_TEMPLATE, [ASK], ONE, {}, "tool_calls"),
        (tiny.CHAT_TEMPLATE, [ASK], [say("a", reasoning_content="m")], {}, "reasoning_content"),
        (tiny.CHAT_TEMPLATE, [ASK, *ONE, TOLD], [say("a")], {}, "tool_calls"),
        (tiny.CHAT_TEMPLATE, [ASK, say("a", thinking="m"), ASK], [say("a")], {}, "thinking"),
        (tiny.CHAT_TEMPLATE, [ASK], [say("a")], {"tools": TOOLS}, "tools"),
        # Text that is there in any case; two sorts of reasoning.
        (tiny.CHAT_TEMPLATE, [ASK], [say("a", reasoning="assistant")], {}, "reasoning"),
        (CALLS_IN_TAGS, [ASK], [say("a", reasoning_content="m", thinking="d")], {}, "thinking"),
        # A second call, the content beside a call.
        (CHANNELS, [ASK], [say("", tool_calls=[call(), call("open")])], {}, "tool_calls"),
        (CHANNELS, [ASK], [say("Wait.", tool_calls=[call()])], {}, "content"),
        (CALL_IN_PLACE, [ASK], [say("find", tool_calls=[call()])], {}, "content"),
        # The same in an earlier turn; a tool's turn that is skipped.
        (CALL_IN_PLACE, [ASK, say("Wait.", tool_calls=[call()]), TOLD], [say("a")], {}, "content"),
        (WITHOUT_TOOL_TURNS, [ASK, say("", tool_calls=[call()]), TOLD], [say("a")], {}, "content"),
        # Of two tools the second.
        (CALLS_IN_TAGS.replace("{% for t in tools %}", "{% for t in tools[:1] %}"), [ASK], ONE,
         {"tools": TOOLS}, "tools"),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out_is_refused(
    template: str, prompt: list[Turn], answer: list[Turn], more: Any, field: str
) -> None:
    row = {"prompt": prompt, "chosen": answer, "rejected": [say("No.")], **more}
    words = f"row 1: the chat template of 'some/model' leaves out what '{field}' says"
    with pytest.raises(InputError, match=words):
        tokenize_rows(load_pairs([row]), tokenizer_of(template), max_length=None)
    if prompt != [ASK]:
        with pytest.raises(InputError, match=f"leaves out what '{field}' says"):
            prompt_token_ids(tokenizer_of(template), Prompt("p", tuple(prompt)))


@pytest.mark.parametrize(
    ("template", "calls", "words"),
    [
        (CALLS_AS_TEXT, [FIND], "'arguments' as Python does. Give JSON text"),
        (CALL_IN_PLACE, [TEXT_CALL], "'arguments' as quoted text. Give an object"),
        (CALL_IN_PLACE, [FIND, FIND], "refuses messages with roles .*one call"),
    ],
)
def test_calls_that_a_template_garbles_are_refused(
    template: str, calls: list[Turn], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        render_chat([ASK], ([say("", tool_calls=calls)],), tokenizer_of(template))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"chat_template_kwargs": {"enable_thinkin": False}}, "knows no 'enable_thinkin'"),
        ({"chat_template_kwargs": {"add_generation_prompt": True}}, "not a row's to set"),
        ({"chat_template_kwargs": {"messages": []}}, "'messages' is not a row's to set"),
        ({"chat_template_kwargs": {"conversations": []}}, "not a row's to set"),
        ({"prompt": [ASK, *ONE]}, "the prompt ends in 'tool_calls'"),
        ({"chosen": [*ONE, say("b")]}, "a response of several turns has 'tool_calls'"),
        ({"chosen": [*ONE, TOLD, say("b")]}, "a response has a turn of role 'tool'"),
    ],
)
def test_what_cannot_be_written_is_refused(more: Any, words: str) -> None:
    row = {"prompt": [ASK], "chosen": [say("a")], "rejected": [say("No.")], **more}
    with pytest.raises(InputError, match=f"row 1: .*{words}"):
        tokenize_rows(load_pairs([row]), tokenizer_of(REASONING_OF_THE_LAST), max_length=None)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tools": "[{"}, "field 'tools' is not JSON"),
        ({"tools": {"name": "find"}}, "field 'tools' is not understood"),
        ({"tools": ["find"]}, "field 'tools' is not understood"),
        ({"chat_template_kwargs": ["a"]}, "field 'chat_template_kwargs' is not understood"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "tools": TOOLS}, "the row holds text"),
        ({"chosen": [say("a", tool_calls="find")]}, "message 1: 'tool_calls' is not understood"),
        ({"chosen": [say("a", tool_calls=[{"arguments": {}}])]}, "'tool_calls' is not understood"),
        (
            {"chosen": [say("", tool_calls=[{"function": {"name": "f", "arguments": "{"}}])]},
            "'tool_calls' is not understood",
        ),
        ({"chosen": [say("a", reasoning=["a"])]}, "message 1: 'reasoning' is list. Give text"),
        ({"chosen": [say("a", thinking="\ud83d")]}, "half of a character"),
        ({"chosen": [{"role": "assistant", "content": None}]}, "expected text in 'role'"),
    ],
)
def test_fields_of_the_wrong_kind_are_refused(more: Any, words: str) -> None:
    row = {"prompt": [ASK], "chosen": [say("a")], "rejected": [say("No.")], **more}
    with pytest.raises(InputError, match=f"data, row 1.*{words}"):
        load_pairs([row])


def test_reasoning_of_earlier_turns_goes_as_the_template_says_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    tokenizer = tokenizer_of(REASONING_OF_THE_LAST)
    tokenizer.name_or_path = "another/model"
    prompt = [ASK, say("Wait.", reasoning_content="look"), ASK]
    for _ in range(2):
        asked, _texts = render_chat(prompt, ([say("Now.")],), tokenizer)
    assert "look" not in asked
    assert caplog.text.count("does not write 'reasoning_content' of earlier messages") == 1


def test_tables_keep_rows_apart(tmp_path: Path) -> None:
    # A table gives each call every call's arguments, without a value where they are not its own.
    plain = {"prompt": [ASK], "rejected": [say("No.")]}
    rows = [
        {**plain, "chosen": [say("", tool_calls=[call(day="May")])], "tools": TOOLS},
        {**plain, "chosen": [say("", tool_calls=[call("open", door="d")])], "tools": None},
    ]
    path = tmp_path / "pairs.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    expected = load_pairs(rows)[:]
    assert expected["chosen"][1][0]["tool_calls"][0]["function"]["arguments"] == {"door": "d"}
    assert expected["tools"] == [TOOLS, None]
    for source in (path, tmp_path / "pairs.jsonl", Dataset.from_list(rows), load_pairs(rows)):
        assert load_pairs(source)[:] == expected


def test_no_other_door_throws_tools_away(tmp_path: Path) -> None:
    pku = {
        "prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 0,
        "safer_response_id": 0, "is_response_0_safe": True, "is_response_1_safe": True,
    }  # fmt: skip
    for i, row in enumerate((pku, ROW)):
        path = tmp_path / f"{i}.jsonl"
        path.write_text(json.dumps({**row, "tools": TOOLS}), "utf-8")
        with pytest.raises(InputError, match="line 1: field 'tools' is not given to the chat temp"):
            load_preferences(PreferenceSettings(path=str(path)))
        with pytest.raises(InputError, match="line 1: field 'tools' is not given to the chat temp"):
            load_prompt_set(path)
        with pytest.raises(InputError, match="line 1: field 'tools' is not given to the chat temp"):
            judged_rows(path, "reward")
        with pytest.raises(InputError, match="line 1: field 'tools' is not given to the chat temp"):
            read_answers(path)
    asked = [ASK, say("", tool_calls=[call()]), TOLD, ASK]
    path.write_text(json.dumps({"prompt": asked}), "utf-8")
    assert load_prompt_set(path).items[0].messages == tuple(asked)
    with pytest.raises(InputError, match="message 2: has 'tool_calls', which a judge is not shown"):
        conversation(asked, "line 1")
