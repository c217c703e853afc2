"""The model card of what was certified: Markdown, whatever names it is made of."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from riskalign.evaluation.wording import certified_words, limit_words, number

_ASK = """\
prompt = [{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(
    prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
answer = model.generate(
    input_ids=inputs["input_ids"],
    attention_mask=inputs["attention_mask"],
    {draw},
    repetition_penalty=1.0,
    max_new_tokens={tokens},
    pad_token_id=tokenizer.pad_token_id,
)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""
_DIAL = """\
import riskalign

model, tokenizer = riskalign.load_dial("FOLDER")
"""
# Loaded in bfloat16 its rotary frequencies would be finer than when it was tested.
_SINGLE = """\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER", dtype=torch.float32).to(torch.{dtype})
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
"""


def card(certificate: Mapping[str, Any], fingerprints: Sequence[str], *, is_dial: bool) -> str:
    """Markdown: what was certified of what, on which assumptions, and how to load it.

    `certificate` is a job's, with a setting that is certified; `fingerprints` are of the models in
    the folder, in order. Raises whatever a certificate that is none of a job's leads to.
    """
    chosen, asked = certificate["certified"], certificate["sampling"]
    words, *others = certified_words(certificate)
    others += [certificate["note"]] if "note" in certificate else []
    rows = [
        f"| {plain(limit_words(test))} | {number(test['estimate'])} | {number(test['bound'])} | "
        f"{test['prompts']:,} | {test['answers']:,} |"
        for test in certificate["tests"]
        if test["setting"] == chosen
    ]
    w, of = certificate["certified_w"], "the average of the two steps' weights"
    if is_dial or w in (0, 1, None):
        of = "a point of the dial between the two steps' models" if is_dial else "one step's model"
    dtype = "bfloat16" if certificate["bf16"] else "float32"
    world = certificate["world"]
    source = "held-out prompts of a data set" if world is None else f"prompts of {plain(world)}"
    lines = [
        "# A certified setting",
        f"{plain(words)} It is {of}{'' if w is None else f', at w = {w:g}'}.",
        "\n".join(
            [
                "| limit | estimate | at most | prompts | answers |",
                "| --- | ---: | ---: | ---: | ---: |",
                *rows,
            ]
        ),
        *map(plain, others),
        f"It was tested on {source}, {certificate['prompts']:,} of them, of which "
        f"{certificate['shared_with_evaluation']:,} are also among those of the job's evaluation. "
        f"Answers were sampled in {dtype} at temperature {asked['temperature']:g}, top_p "
        f"{asked['top_p']:g}, with at most {asked['max_new_tokens']:d} new tokens. Of other "
        "prompts, other sampling, another chat template or other weights it says nothing. "
        "`certificate.json` has every test.",
        "## How to load it",
        f"```python\n{_code(asked, dtype, is_dial)}\n```",
        "## Weights",
        "\n".join(
            f"- {f'`model_{i}`' if is_dial else 'the model'}: SHA-256 {plain(each)} "
            "(`riskalign.models.fingerprint` of it in float32)"
            for i, each in enumerate(fingerprints, 1)
        ),
        f"Made by riskalign {plain(certificate['riskalign_version'])}.",
    ]
    return "\n\n".join(lines) + "\n"


def plain(text: object) -> str:
    """Text on one line of Markdown, with nothing in it that marks, links or tags."""
    shown = "".join(character if character.isprintable() else " " for character in str(text))
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", html.escape(shown, quote=False))


def _code(asked: Mapping[str, Any], dtype: str, is_dial: bool) -> str:
    heat, top_p = float(asked["temperature"]), float(asked["top_p"])
    draw = f"do_sample=True,\n    temperature={heat},\n    top_p={top_p},\n    top_k=0"
    ask = _ASK.format(draw=draw if heat > 0 else "do_sample=False", tokens=asked["max_new_tokens"])
    return f"{_DIAL if is_dial else _SINGLE.format(dtype=dtype)}{ask}"
