"""Sample answers from a model: batched, each prompt read once, rows sorted by length."""

from collections.abc import Callable
from typing import Literal

from riskalign.models.sampling.generate import Answer, checked_prompts, sample
from riskalign.models.sampling.vllm import sample_with_vllm

Backend = Literal["transformers", "vllm"]

#: What draws the answers; all take the arguments of `sample`.
BACKENDS: dict[Backend, Callable[..., list[list[Answer]]]] = {
    "transformers": sample,
    "vllm": sample_with_vllm,
}

__all__ = ["BACKENDS", "Answer", "Backend", "checked_prompts", "sample", "sample_with_vllm"]
