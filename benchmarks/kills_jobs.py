"""The commands that `kills.py` kills: jobs, PPO and a comparison on a model of one layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from riskalign.models import save_model
from riskalign.worlds import Prompt
from riskalign.worlds.world import Split

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


class Letters:
    """Prefers many different letters; digits are what must not be said."""

    name = "letters"

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """Ask for numbered orders of one month or another."""
        month = "March" if split == "train" else "June"
        messages = [({"role": "user", "content": f"Order {i} of {month}?"},) for i in range(n)]
        return [Prompt(f"{split}-{seed}-{i}", own) for i, own in enumerate(messages)]

    def reward(self, prompt: Prompt, answer: str) -> float:
        """The share of the alphabet that occurs."""
        return len({letter for letter in answer.lower() if "a" <= letter <= "z"}) / 26

    def cost(self, prompt: Prompt, answer: str) -> float:
        """One for each digit."""
        return float(sum(letter.isdigit() for letter in answer))


def make_model(folder: Path) -> None:
    """A start model of one layer on bytes."""
    tokens = ["<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=128,
        initializer_range=0.3, bos_token_id=None, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=tokens[1], pad_token=tokens[1],
        extra_special_tokens=tokens[:1], chat_template=_TEMPLATE, model_max_length=128,
    )  # fmt: skip
    save_model(LlamaForCausalLM(config), wrapped, folder)


def recipes(work: Path) -> dict[str, list[str]]:
    """The commands that are killed, by name; each writes to `work/run`."""
    make_model(work / "start")
    step = {
        "max_steps": 5, "per_device_train_batch_size": 2, "learning_rate": 1e-2,
        "save_strategy": "steps", "save_steps": 2,
    }  # fmt: skip
    small = {"max_new_tokens": 4, "batch_size": 16}
    base: dict[str, Any] = {
        "model": str(work / "start"), "output_dir": str(work / "run"),
        "world": f"{__name__}:Letters", "helpful": step, "safe": step,
        "sampling": {"prompts": 4, "answers_per_prompt": 4, **small},
        "evaluation": {
            "prompts": 3, "answers_per_prompt": 2, "n_boot": 20, "dial": [0.5], "dial_prompts": 2,
            **small,
        },
    }  # fmt: skip
    job = base | {"peft": {"r": 2, "lora_alpha": 4}}
    rounds = {
        "iterations": 11, "prompts_per_iteration": 2, "answers_per_prompt": 2, "max_new_tokens": 4,
        "num_mini_batches": 1, "per_device_train_batch_size": 4,
    }  # fmt: skip
    ppo = base | {"order": ["ppo"], "ppo": rounds}
    comparison = base | {"compare": {"presets": ["sacpo", "rsa"], "seeds": [0]}}
    # Half the batch on each of two processes.
    half = step | {"per_device_train_batch_size": 1}
    launch = job | {"helpful": half, "safe": half, "launch": {"processes": 2}}
    kinds = {"job": job, "ppo": ppo, "compare": comparison, "launch": launch}
    found = {}
    for name, content in kinds.items():
        path = work / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        found[name] = ["compare" if name == "compare" else "align", "-c", str(path)]
    return found
