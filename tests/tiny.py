"""Tiny tokenizers, models and preference rows, made on the spot without a network."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_CORPUS = [
    "The order is on its way and should arrive on Tuesday.",
    "Please tell me the door code of the shop.",
    "I am sorry, I cannot share that, but I can help with your order.",
    "The door code is 4711. system user assistant",
]


def make_tokenizer(
    *, pad_token: str | None = "<|pad|>", chat_template: str | None = CHAT_TEMPLATE
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 300 entries; `eos_token` is the chat end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|im_start|>", "<|im_end|>", "<|pad|>"],
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token=pad_token,
        chat_template=chat_template,
        extra_special_tokens=["<|im_start|>"],
        model_max_length=512,
    )


def make_config(model_type: str = "llama", **config: Any) -> PreTrainedConfig:
    """Configuration of 2 layers, hidden size 32, 4 heads; `config` overrides its fields."""
    settings: dict[str, Any] = {
        "vocab_size": 304,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    if model_type == "gpt2":
        settings |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
        for name in ("hidden_size", "intermediate_size", "num_key_value_heads"):
            settings.pop(name)
    if model_type == "gpt_neox":
        settings.pop("num_key_value_heads")
    made = AutoConfig.for_model(model_type, **(settings | config))
    assert isinstance(made, PreTrainedConfig)
    return made


def make_model(
    model_type: str = "llama",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> PreTrainedModel:
    """A randomly initialised causal language model; `config` as in `make_config`."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(make_config(model_type, **config), dtype=dtype)
    assert isinstance(model, PreTrainedModel)
    model.eval()
    return model


def make_pairs(n: int = 8) -> list[dict[str, Any]]:
    """Conversational preference rows of uneven lengths, with scores; harmless text only."""
    return [
        {
            "prompt": [
                {"role": "system", "content": f"The door code is {1000 + 7 * i}."},
                {"role": "user", "content": "When does my order come?" + " Please." * (i % 3)},
            ],
            "chosen": [{"role": "assistant", "content": f"It comes on day {i}." * (1 + i % 2)}],
            "rejected": [{"role": "assistant", "content": f"The code is {1000 + 7 * i}, ok?"}],
            "score_chosen": 1.0 - 0.05 * i,
            "score_rejected": -0.1 * i,
        }
        for i in range(n)
    ]
