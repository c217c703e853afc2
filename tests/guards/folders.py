"""Broken model folders, adapters, tokenizers, templates, worlds, scorers, results and runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.guards.harness import WORLD, Case, Make, case

Edit = Callable[[Path], object]

_KIT = Path()  # set by `cases`


def _json(file: str, **fields: Any) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text())
        for name, value in fields.items():
            if value is ...:
                content.pop(name, None)
            else:
                content[name] = value
        path.write_text(json.dumps(content))

    return edit


def _text(file: str, content: str | bytes) -> Edit:
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / file).write_bytes(raw)


def _gone(*files: str) -> Edit:
    def edit(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return edit


def _as_folder(file: str) -> Edit:
    def edit(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).mkdir()

    return edit


_CONFIG = "config.json"
_TOKENIZER = "tokenizer_config.json"

#: How a model's folder is broken.
_MODELS: dict[str, Edit] = {
    "no config": _gone(_CONFIG),
    "config empty": _text(_CONFIG, ""),
    "config cut off": _text(_CONFIG, '{"model_type"'),
    "config a list": _text(_CONFIG, "[]"),
    "config a word": _text(_CONFIG, '"llama"'),
    "config null": _text(_CONFIG, "null"),
    "config bad UTF-8": _text(_CONFIG, b'{"model_type": "\xff"}'),
    "config nested": _text(_CONFIG, "[" * 100_000),
    "config a folder": _as_folder(_CONFIG),
    "config {}": _text(_CONFIG, "{}"),
    "model_type unknown": _json(_CONFIG, model_type="nothing"),
    "model_type a number": _json(_CONFIG, model_type=3),
    "model_type null": _json(_CONFIG, model_type=None),
    "model_type of a list": _json(_CONFIG, model_type=["llama"]),
    "model_type of pictures": _json(_CONFIG, model_type="vit"),
    "model_type of another": _json(_CONFIG, model_type="gpt2", architectures=["GPT2LMHeadModel"]),
    "hidden_size missing": _json(_CONFIG, hidden_size=...),
    "hidden_size other": _json(_CONFIG, hidden_size=64),
    "hidden_size 0": _json(_CONFIG, hidden_size=0),
    "hidden_size negative": _json(_CONFIG, hidden_size=-32),
    "hidden_size text": _json(_CONFIG, hidden_size="many"),
    "hidden_size a float": _json(_CONFIG, hidden_size=32.5),
    "hidden_size null": _json(_CONFIG, hidden_size=None),
    "heads 0": _json(_CONFIG, num_attention_heads=0),
    "heads do not divide": _json(_CONFIG, num_attention_heads=5),
    "kv heads 0": _json(_CONFIG, num_key_value_heads=0),
    "kv heads 3": _json(_CONFIG, num_key_value_heads=3),
    "layers negative": _json(_CONFIG, num_hidden_layers=-1),
    "layers text": _json(_CONFIG, num_hidden_layers="two"),
    "more layers than weights": _json(_CONFIG, num_hidden_layers=3),
    "layers beyond count": _json(_CONFIG, num_hidden_layers=10**30),
    "layers of a text model beyond count": _json(_CONFIG, text_config={"n_layer": 10**30}),
    "vocab_size other": _json(_CONFIG, vocab_size=10),
    "vocab_size 0": _json(_CONFIG, vocab_size=0),
    "vocab_size text": _json(_CONFIG, vocab_size="x"),
    "dtype unknown": _json(_CONFIG, dtype="float99"),
    "attention unknown": _json(_CONFIG, _attn_implementation="nothing"),
    "attn_implementation unknown": _json(_CONFIG, attn_implementation="nothing"),
    "activation unknown": _json(_CONFIG, hidden_act="nothing"),
    "activation a list": _json(_CONFIG, hidden_act=[1]),
    "rope unknown": _json(_CONFIG, rope_scaling={"rope_type": "nothing", "factor": 2.0}, rope_parameters={"rope_type": "nothing", "rope_theta": 1e4}),
    "rope a word": _json(_CONFIG, rope_scaling="x", rope_parameters="x"),
    "quantised by a word": _json(_CONFIG, quantization_config="x"),
    "code of its own": _json(_CONFIG, auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}, model_type="mine"),
    "eos a word": _json(_CONFIG, eos_token_id="end"),
    "eos beyond the vocabulary": _json(_CONFIG, eos_token_id=10**9),
    "weights empty": _text("model.safetensors", b""),
    "weights of words": _text("model.safetensors", b"hello world, this is no tensor"),
    "weights cut off": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:500]),
    "weights with a huge heading": _text("model.safetensors", b"\xff" * 8 + b"{}"),
    "no weights": _gone("model.safetensors"),
    "weights a folder": _as_folder("model.safetensors"),
    "pickled weights alone": lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
    "an index of nothing": lambda f: (_gone("model.safetensors")(f), _text("model.safetensors.index.json", '{"weight_map": {"a": "none.safetensors"}}')(f)),
    "an index of words": lambda f: (_gone("model.safetensors")(f), _text("model.safetensors.index.json", "hello")(f)),
    "no tokenizer": _gone("tokenizer.json", _TOKENIZER),
    "tokenizer empty": _text("tokenizer.json", ""),
    "tokenizer a list": _text("tokenizer.json", "[]"),
    "tokenizer {}": _text("tokenizer.json", "{}"),
    "tokenizer cut off": lambda f: (f / "tokenizer.json").write_bytes((f / "tokenizer.json").read_bytes()[:900]),
    "tokenizer of an unknown model": _json("tokenizer.json", model={"type": "Nothing"}),
    "tokenizer config a list": _text(_TOKENIZER, "[]"),
    "tokenizer config cut off": _text(_TOKENIZER, '{"a"'),
    "tokenizer class a number": _json(_TOKENIZER, tokenizer_class=3),
    "eos_token unknown": _json(_TOKENIZER, eos_token=3),
    "added tokens of words": _json(_TOKENIZER, added_tokens_decoder={"x": "y"}),
    "model_max_length a word": _json(_TOKENIZER, model_max_length="long"),
    "generation config cut off": _text("generation_config.json", '{"a"'),
    "generation config a list": _text("generation_config.json", "[]"),
}  # fmt: skip

_TEMPLATES: dict[str, str] = {
    "of bad syntax": "{% for m in messages %}",
    "that ends nothing": "{% endfor %}",
    "of an unknown filter": "{{ messages | nothing }}",
    "of an unknown tag": "{% nothing %}",
    "that divides by 0": "{{ 1 // 0 }}",
    "that raises": "{{ raise_exception('no system role') }}",
    "of unknown names": "{{ nothing.more.still }}",
    "that never ends": "{% for i in range(10 ** 12) %}a{% endfor %}",
    "that grows": "{{ 'a' * (10 ** 11) }}",
    "that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "that says nothing": "{# nothing #}",
    "that is the same for all": "hello",
    "without content": "{% for m in messages %}{{ m['role'] }}{% endfor %}",
    "that reaches out": "{{ ''.__class__.__mro__ }}",
    "of five megabytes": "{# " + "words " * 900_000 + "#}{{ messages[0]['content'] }}",
    "that includes": "{% include 'other.jinja' %}",
}


def _adapter(**config: Any) -> dict[str, Any]:
    return {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"],
        "base_model_name_or_path": "SOUND", "task_type": "CAUSAL_LM", **config,
    }  # fmt: skip


_ADAPTERS: dict[str, dict[str, Any] | str] = {
    "of an unknown type": _adapter(peft_type="NOTHING"),
    "of another type": _adapter(peft_type="PREFIX_TUNING", num_virtual_tokens=3),
    "without a type": {k: v for k, v in _adapter().items() if k != "peft_type"},
    "of rank 0": _adapter(r=0),
    "of rank text": _adapter(r="many"),
    "without weights": _adapter(),
    "that matches nothing": _adapter(target_modules=["nothing"]),
    "of its own base": _adapter(base_model_name_or_path="ITSELF"),
    "of no base": _adapter(base_model_name_or_path="/none/such"),
    "of a null base": _adapter(base_model_name_or_path=None),
    "of a base's number": _adapter(base_model_name_or_path=3),
    "with an unknown field": _adapter(nothing=3),
    "of a base with NUL": _adapter(base_model_name_or_path="a\0b"),
    "a list": "[]",
    "cut off": '{"peft_type"',
}  # fmt: skip

_HEAD = "from riskalign import Prompt\n\n\nclass World:\n    name = 'mine'\n"
_GOOD = {
    "prompts": "    def prompts(self, split, n, seed):\n        return [Prompt(f'{split}{i}', "
    "[{'role': 'user', 'content': f'{split} {i}'}], {}) for i in range(n)]\n",
    "reward": "    def reward(self, prompt, answer):\n        return 1.0\n",
    "cost": "    def cost(self, prompt, answer):\n        return 0.0\n",
}


def _world(more: str = "", **methods: str) -> str:
    return _HEAD + "".join((_GOOD | methods).values()) + more


def _prompts(body: str) -> str:
    return f"    def prompts(self, split, n, seed):\n        {body}\n"


_WORLDS: dict[str, tuple[str, str]] = {
    "of bad syntax": ("class World(:", ""),
    "that imports nothing there is": ("import nothing_there_is", ""),
    "that raises on import": ("raise RuntimeError('no')", ""),
    "that exits on import": ("raise SystemExit(0)", ""),
    "without the class": ("x = 1", "World"),
    "that is a function": ("def World(): return None", "prompts"),
    "that is a number": ("World = 3", ""),
    "whose making raises": (_HEAD + "    def __init__(self): raise ValueError('no')\n", ""),
    "whose making needs more": (_HEAD + "    def __init__(self, x): pass\n", ""),
    "without prompts": (_world(prompts=""), "prompts"),
    "without reward": (_world(reward=""), "reward"),
    "without cost": (_world(cost=""), "cost"),
    "without name": (_world().replace("    name = 'mine'\n", ""), "name"),
    "with a name of a number": (_world().replace("'mine'", "3"), "name"),
    "of no prompts": (_world(prompts=_prompts("return []")), "prompts"),
    "of None": (_world(prompts=_prompts("return None")), "prompts"),
    "of words": (_world(prompts=_prompts("return ['a'] * n")), "prompts"),
    "of too few": (_world(prompts=_prompts("return [Prompt('a', [{'role': 'user', 'content': 'x'}], {})]")), "prompts"),
    "of the same ids": (_world(prompts=_prompts("return [Prompt('a', [{'role': 'user', 'content': str(i)}], {}) for i in range(n)]")), "id"),
    "of messages of words": (_world(prompts=_prompts("return [Prompt(str(i), 'hello', {}) for i in range(n)]")), ""),
    "of messages without role": (_world(prompts=_prompts("return [Prompt(str(i), [{'content': 'x'}], {}) for i in range(n)]")), "role"),
    "whose prompts raise": (_world(prompts=_prompts("raise KeyError('x')")), "prompts"),
    "whose prompts exit": (_world(prompts=_prompts("raise SystemExit(0)")), "prompts"),
    "of the same prompts in both splits": (_world(prompts=_prompts("return [Prompt(f'{split}{i}', [{'role': 'user', 'content': str(i)}], {}) for i in range(n)]")), ""),
    "whose max_cost is text": (_world("    max_cost = 'much'\n"), "max_cost"),
    "whose max_cost is negative": (_world("    max_cost = -1.0\n"), "max_cost"),
    "whose max_cost is NaN": (_world("    max_cost = float('nan')\n"), "max_cost"),
    "whose cost raises": (_world(cost="    def cost(self, prompt, answer):\n        raise KeyError('x')\n"), "cost"),
    "whose cost is None": (_world(cost="    def cost(self, prompt, answer):\n        return None\n"), "cost"),
    "whose cost is text": (_world(cost="    def cost(self, prompt, answer):\n        return '1'\n"), "cost"),
    "whose cost is negative": (_world(cost="    def cost(self, prompt, answer):\n        return -1.0\n"), "cost"),
    "whose reward is NaN": (_world(reward="    def reward(self, prompt, answer):\n        return float('nan')\n"), "reward"),
    "whose cost is of 400 digits": (_world(cost="    def cost(self, prompt, answer):\n        return 10 ** 400\n"), "cost"),
    "whose reward exits": (_world(reward="    def reward(self, prompt, answer):\n        raise SystemExit(0)\n"), "reward"),
    "whose reward takes less": (_world(reward="    def reward(self, prompt):\n        return 1.0\n"), "reward"),
}  # fmt: skip


def _results() -> dict[str, tuple[str, str]]:
    sound = json.loads((Path(__file__).parents[2] / "docs" / "quickstart.json").read_text())

    def edited(**fields: Any) -> str:
        content = json.loads(json.dumps(sound))
        for path, value in fields.items():
            place = content
            *above, last = path.split("__")
            for name in above:
                place = place[int(name)] if isinstance(place, list) else place[name]
            if value is ...:
                place.pop(last, None)
            else:
                place[last] = value
        return json.dumps(content)

    text = json.dumps(sound)
    found = {
        f"without {name}": (edited(**{name: ...}), name)
        for name in ("schema", "models", "n_prompts")
    }
    found |= {
        f"{name} {kind}": (edited(**{name: value}), name)
        for name in ("models", "differences", "dial", "costs", "rewards", "examples", "training", "n_prompts", "title", "settings")
        for kind, value in (("a word", "x"), ("null", None), ("a number list", [1]))
        if not (name == "title" and kind == "a word")
    }  # fmt: skip
    found |= {
        "schema 99": (edited(schema=99), "schema"),
        "models {}": (edited(models={}), "models"),
        "model a number": (edited(models__final=3), "final"),
        "metric a word": (edited(models__final__reward="x"), "reward"),
        "metric NaN": (text.replace('"value": ', '"value": NaN, "was": ', 1), "NaN"),
        "empty": ("", ""),
        "a list": ("[]", ""),
        "null": ("null", ""),
        "cut off": (text[: len(text) // 2], ""),
        "nested": ("[" * 100_000, ""),
        "5000 digits": (
            text.replace('"n_prompts": ', '"n_prompts": ' + "9" * 5000 + ', "was": ', 1),
            "",
        ),
        "a key twice": ('{"schema": 1, "schema": 1}', "schema"),
    }
    return found


def cases(kit: Path | None = None) -> list[Case]:
    """All of them."""
    found: list[Case] = []

    def model(edit: Edit, name: str = "model") -> Make:
        def make(here: Path) -> None:
            # The kit lies beside; a case that needs it copies what it breaks.
            shutil.copytree(here.parent / "kit" / "sound", here / name)
            edit(here / name)

        return make

    sample = f"sample --kind answers --model {{here}}/model --out {{out}}.jsonl {WORLD}"
    train = f"align --model {{here}}/model --output_dir {{out}} {WORLD}"
    for name, edit in _MODELS.items():
        found.append(
            case(f"model: {name}", train if len(found) % 2 else sample, "here/model", model(edit))
        )
    for name, template in _TEMPLATES.items():
        command = train if len(found) % 2 else sample
        found.append(
            case(
                f"template {name}",
                command,
                "here/model template",
                model(_text("chat_template.jinja", template)),
            )
        )
        found.append(
            case(
                f"chat_template {name}",
                f"align --model {{sound}} --chat_template {{here}}/t.jinja --output_dir {{out}} {WORLD}",
                "template",
                _text("t.jinja", template),
            )
        )
    for name, config in _ADAPTERS.items():

        def adapter(here: Path, config: dict[str, Any] | str = config) -> None:
            (here / "model").mkdir()
            if isinstance(config, dict):
                base = {"SOUND": here.parent / "kit" / "sound", "ITSELF": here / "model"}
                at = config.get("base_model_name_or_path")
                config = json.dumps(
                    config | {"base_model_name_or_path": str(base[at]) if at in base else at}
                )
            (here / "model" / "adapter_config.json").write_text(config)

        found.append(case(f"adapter {name}", sample, "here/model", adapter))
    for name, (text, words) in _WORLDS.items():
        command = (
            "align --model {sound} --output_dir {out} --world {here}/w.py:World"
            if len(found) % 2
            else "sample --kind safe --model {sound} --out {out}.jsonl --world {here}/w.py:World"
        )
        del command
        found.append(
            case(
                f"world {name}",
                f"align --model {{sound}} --output_dir {{out}} --world world_{len(found)}:World",
                f"world {words}",
                _text(f"world_{len(found)}.py", text),
            )
        )
    for name, (text, words) in _results().items():
        found.append(
            case(
                f"results: {name}",
                "report {here}/results.json",
                f"results.json {words}",
                _text("results.json", text),
            )
        )
    return found
