"""Chat templates of the structural kinds that public families have, made by parameters.

`Style.prompt` and `Style.response` say in plain Python what is right, independently of the code.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

Thinking = Literal["keep", "strip", "earlier", "parse", "empty"]

REASONED = "look\n</think>\n\nToday."
TAGGED = "<think>\n" + REASONED
BLOCK = "<think>\n\n</think>\n\n"

_ANSWER = {
    # nothing is done to an answer
    "keep": "{{ m.content }}",
    # only what follows the reasoning is kept
    "strip": "{{ m.content.split('</think>')[-1] }}",
    # likewise, of answers that another message follows
    "earlier": "{{ m.content if loop.last else m.content.split('</think>')[-1] }}",
    # reasoning is taken apart; the last answer always has a block for it
    "parse": (
        "{% set r = '' %}{% set c = m.content %}{% if '</think>' in c %}"
        "{% set r = c.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
        "{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
        "{% if loop.last %}{{ '<think>\\n' + r + '\\n</think>\\n\\n' }}{% endif %}{{ c }}"
    ),
    # every answer has an empty block
    "empty": "<think></think>{{ m.content.split('</think>')[-1].lstrip('\\n') }}",
}


@dataclass(frozen=True)
class Style:
    """What stands before and behind each turn, and what asks for an answer."""

    name: str
    user: tuple[str, str]
    answer: tuple[str, str]
    opening: str
    system: tuple[str, str] | None = None
    bos: str = ""
    thinking: Thinking = "keep"
    trim: bool = False
    last: str = ""

    def template(self) -> str:
        """The template in Jinja."""
        parts = [("user", self.user, "{{ m.content }}")]
        parts += [("assistant", self.answer, _ANSWER[self.thinking])]
        if self.system:
            parts += [("system", self.system, "{{ m.content }}")]
        turns = "".join(
            f"{{% if m.role == '{role}' %}}{_put(before)}"
            f"{content.replace('m.content', 'm.content.strip()') if self.trim else content}"
            f"{_put(behind)}{{% endif %}}"
            for role, (before, behind), content in parts
        )
        ask = f"{{% if add_generation_prompt %}}{_put(self.opening)}{{% else %}}{_put(self.last)}"
        return f"{_put(self.bos)}{{% for m in messages %}}{turns}{{% endfor %}}{ask}{{% endif %}}"

    def prompt(self, messages: list[dict[str, str]]) -> str:
        """What the model is asked with; no answer among the messages has reasoning."""
        around = {"user": self.user, "assistant": self.answer, "system": self.system or ("", "")}
        turns = []
        for message in messages:
            before, behind = around[message["role"]]
            if self.thinking == "empty" and message["role"] == "assistant":
                before += "<think></think>"
            turns.append(before + message["content"] + behind)
        return self.bos + "".join(turns) + self.opening

    def response(self, content: str) -> str:
        """What the model is to say."""
        said = content.strip() if self.trim else content
        header, end = self.answer
        end += self.last
        opens = self.opening.endswith("<think>\n")
        if content in (REASONED, TAGGED):
            if self.thinking == "parse":
                said = TAGGED
            if opens:
                said = said.removeprefix("<think>\n")
        elif self.thinking == "parse":
            said = BLOCK.removeprefix("<think>\n" if opens else "") + said
        elif self.thinking == "empty":
            said = ("</think>" if opens else "<think></think>") + said
        return header[len(self.opening) :] + said + end


def _put(text: str) -> str:
    return "{{ " + json.dumps(text) + " }}" if text else ""


def _roles(
    name: str, head: str, foot: str, names: str = "user assistant system", **more: object
) -> Style:
    """A style with the same signs around every role; R in `head` stands for its name."""
    user, own, system = (head.replace("R", role) for role in names.split())
    found: dict[str, object] = {"opening": own, "system": (system, foot), **more}
    return Style(name, (user, foot), (own, foot), **found)  # type: ignore[arg-type]


_ML, _ML_END = "<|im_start|>R\n", "<|im_end|>\n"
_ASK = "<|im_start|>assistant\n"
_SEEK: dict[str, Any] = {
    "user": ("<|User|>", ""),
    "answer": ("<|Assistant|>", "<|end|>"),
    "system": ("", ""),
}
_LLAMA = "<|start_header_id|>R<|end_header_id|>\n\n"
_GLM = "<|R|>\n"

STYLES = [
    _roles("chatml", _ML, _ML_END),
    _roles("chatml-bos", _ML, _ML_END, bos="<s>"),
    _roles("chatml-no-newline", "<|im_start|>R\n", "<|im_end|>"),
    _roles("chatml-trim", _ML, _ML_END, trim=True),
    _roles("chatml-end-of-all", _ML, _ML_END, last="<|endoftext|>"),
    _roles("hermes", _ML, _ML_END, bos="<|begin_of_text|>"),
    _roles("yi", _ML, _ML_END, bos="<|startoftext|>", trim=True),
    _roles("stablelm", "<|R|>\n", "<|endoftext|>\n"),
    _roles("smollm", _ML, _ML_END, thinking="earlier"),
    _roles("qwen3", _ML, _ML_END, thinking="parse"),
    _roles("qwen3-thinking", _ML, _ML_END, thinking="parse", opening=_ASK + "<think>\n"),
    _roles("qwq", _ML, _ML_END, thinking="strip", opening=_ASK + "<think>\n"),
    _roles("qwen-earlier", _ML, _ML_END, thinking="earlier", opening=_ASK + "<think>\n"),
    _roles("nemotron", _ML, _ML_END, thinking="empty", opening=_ASK + "<think>\n"),
    _roles("nemotron-plain", _ML, _ML_END, thinking="empty"),
    _roles("chatml-think-kept", _ML, _ML_END, opening=_ASK + "<think>\n"),
    _roles("llama3", _LLAMA, "<|eot_id|>", bos="<|begin_of_text|>", trim=True),
    _roles("llama3-untrimmed", _LLAMA, "<|eot_id|>", bos="<|begin_of_text|>"),
    _roles("llama4", "<|header_start|>R<|header_end|>\n\n", "<|eot|>", trim=True),
    _roles("phi3", "<|R|>\n", "<|end|>\n", last="<|endoftext|>"),
    _roles("phi4", "<|im_start|>R<|im_sep|>", "<|im_end|>"),
    _roles("zephyr", "<|R|>\n", "</s>\n"),
    _roles("tulu", "<|R|>\n", "\n", last="<|endoftext|>"),
    _roles("granite", "<|start_of_role|>R<|end_of_role|>", "<|end_of_text|>\n"),
    _roles("glm4", _GLM, "", bos="[gMASK]<sop>"),
    _roles("glm4.5", _GLM, "", bos="[gMASK]<sop>", opening="<|assistant|>", thinking="empty"),
    _roles("gemma", "<start_of_turn>R\n", "<end_of_turn>\n", "user model developer", bos="<bos>"),
    _roles("gemma-trim", "<start_of_turn>R\n", "<end_of_turn>\n", "user model system", trim=True),
    _roles("command-r", "<|START|><|R_TOKEN|>", "<|END|>", "USER CHATBOT SYSTEM", bos="<BOS>"),
    _roles("falcon", "R: ", "\n", "User Falcon System", opening="Falcon:"),
    _roles("vicuna", "R: ", " ", "USER ASSISTANT S", opening="ASSISTANT:", last="</s>"),
    _roles("alpaca", "### R:\n", "\n\n", "Instruction Response System"),
    _roles("starchat", "<|R|>\n", "<|end|>\n"),
    _roles("openchat", "GPT4 Correct R: ", "<|end_of_turn|>", "User Assistant System",
           opening="GPT4 Correct Assistant:"),
    _roles("olmo", "<|R|>\n", "\n", bos="<|endoftext|>"),
    _roles("exaone", "[|R|]", "[|endofturn|]\n"),
    _roles("solar", "### R:\n", "\n\n", "User Assistant System", last="</s>"),
    _roles("minicpm", "<R>", "", "用户 AI sys"),
    _roles("lfm", _ML, _ML_END, bos="<|startoftext|>", thinking="strip"),
    Style("llama2", ("<s>[INST] ", " [/INST]"), (" ", " </s>"), ""),
    Style("llama2-trim", ("<s>[INST] ", " [/INST]"), (" ", " </s>"), "", trim=True),
    Style("mistral-v1", (" [INST] ", " [/INST]"), (" ", "</s>"), "", bos="<s>"),
    Style("mistral-v3", ("[INST] ", "[/INST]"), (" ", "</s>"), "", bos="<s>"),
    Style("mistral-v7", ("[INST]", "[/INST]"), ("", "</s>"), "", bos="<s>",
          system=("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")),
    Style("deepseek-v2", ("User: ", "\n\n"), ("Assistant: ", "<|end|>"), "Assistant:"),
    Style("deepseek-v3", opening="<|Assistant|>", thinking="strip", **_SEEK),
    Style("deepseek-r1", opening="<|Assistant|><think>\n", thinking="strip", **_SEEK),
    Style("role-less", ("Q: ", "\n"), ("", "\n"), ""),
    Style("issue", ("[U]", ""), ("[A]", "<|im_end|>"), "[A]<think>\n", thinking="strip"),
]  # fmt: skip

# Templates that write calls of tools and reasoning from fields of their own. Each writes
# "[role]content<end>" in its own signs; what they differ in is said before each.

_TAG = "[{{ m.role }}]"
_ASKING = "{% if add_generation_prompt %}[assistant]{% endif %}"

#: Calls as JSON in tags behind the content, tools in a system turn, reasoning wherever it stands.
CALLS_IN_TAGS = (
    "{% if tools %}[system]{% for t in tools %}{{ t | tojson }}{% endfor %}<|im_end|>{% endif %}"
    "{% for m in messages %}" + _TAG + "{% if m.reasoning_content %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{% set f = c.function or c %}"
    "{% if m.content or loop.index > 1 %}{{ '\\n' }}{% endif %}<tool_call>{{ f.name }} "
    "{% if f.arguments is string %}{{ f.arguments }}"
    "{% else %}{{ f.arguments | tojson }}{% endif %}</tool_call>{% endfor %}<|im_end|>{% endfor %}"
    + _ASKING
)
#: One call a turn, which takes the content's place; tools in the first user turn.
CALL_IN_PLACE = (
    "{% for m in messages %}" + _TAG + "{% if tools and loop.first %}"
    "{% for t in tools %}{{ t.function.name }}: {{ t.function.description }}\n{% endfor %}"
    "{% endif %}"
    "{% if m.tool_calls %}{% if m.tool_calls | length > 1 %}{{ raise_exception('one call') }}"
    '{% endif %}{"name": "{{ m.tool_calls[0].function.name }}", "parameters": '
    "{{ m.tool_calls[0].function.arguments | tojson }}}{% else %}{{ m.content }}{% endif %}"
    "<|im_end|>{% endfor %}" + _ASKING
)
#: The model is asked with an open block; the last turn's reasoning is kept, or the block is empty.
REASONING_OF_THE_LAST = (
    "{% for m in messages %}" + _TAG + "{% if loop.last and m.role == 'assistant' %}<think>\n"
    "{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call {{ c.function.name }}>"
    "{% for k, v in c.function.arguments | items %}{{ k }}={{ v }};{% endfor %}</call>{% endfor %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}[assistant]"
    "{{ '<think>\\n\\n</think>\\n\\n' if enable_thinking is false else '<think>\\n' }}{% endif %}"
)
#: An opening without the channel; reasoning is `thinking`; only the first call is written.
CHANNELS = (
    "{% for m in messages %}{% if m.role != 'assistant' %}<{{ m.role }}>{{ m.content }}<|im_end|>"
    "{% else %}{% if m.thinking and loop.last %}<assistant>!analysis {{ m.thinking }}<|im_end|>"
    "{% endif %}{% if m.tool_calls %}<assistant> to={{ m.tool_calls[0].function.name }}!"
    "{{ m.tool_calls[0].function.arguments | tojson }}<|im_end|>{% else %}"
    "<assistant>!final {{ m.content }}<|im_end|>{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
#: Arguments are written as they are: JSON text as such, an object as Python writes it.
CALLS_AS_TEXT = (
    "{% for m in messages %}" + _TAG + "{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}({{ c.function.arguments }}){% endfor %}<|im_end|>{% endfor %}" + _ASKING
)
