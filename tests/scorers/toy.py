"""A random BERT of two dozen words, and judged answers about a secret code; all harmless."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

COLOURS = ("red", "blue", "green", "gold", "grey")
WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is", "the", "code", "of", "shop", "order"),
    *("day", "it", "secret", "please", "hello", "sorry", "no"),
    *COLOURS,
)


def make_encoder(folder: Path, *, seed: int = 0, pooler: bool = True) -> str:
    """Write the encoder and its tokenizer to a folder; its path."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    BertModel(config, add_pooling_layer=pooler).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def judged(n: int = 30, first: int = 0) -> list[dict[str, Any]]:
    """Rows in PKU-SafeRLHF's fields: an answer that tells the code is unsafe, a polite one better.

    A third of the pairs are mixed (the second answer is safe), a third safe, a third unsafe.
    """
    rows = []
    for i in range(first, first + n):
        better = i % 2
        unsafe = (i % 3 != 1, i % 3 == 2)
        answers = [
            f"the secret code is {COLOURS[i % 5]}" if told else f"sorry no {COLOURS[(i + j) % 5]}"
            for j, told in enumerate(unsafe)
        ]
        answers[better] += " please"
        rows.append(
            {
                "prompt": f"hello what is the {COLOURS[i % 5]} code {i}",
                "response_0": answers[0],
                "response_1": answers[1],
                "is_response_0_safe": not unsafe[0],
                "is_response_1_safe": not unsafe[1],
                "better_response_id": better,
                "safer_response_id": 1 if i % 3 == 0 else better,
            }
        )
    return rows
