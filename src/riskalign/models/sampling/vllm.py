"""Sampling by vLLM, an optional engine for GPUs, with the interface of `sample`."""

import importlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import LogitsProcessorList
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from riskalign.errors import InputError
from riskalign.models.sampling.generate import Answer, prepared, to_answer
from riskalign.models.weights import check_weights
from riskalign.worlds.world import Prompt

# The policy and the start model stay on the same GPU beside the engine.
_SHARE_OF_MEMORY = 0.6


def sample_with_vllm(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    answers_per_prompt: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 48,
    batch_size: int = 64,
    seed: int = 0,
    logits_processor: LogitsProcessorList | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Answer]]:
    """As `sample`; the engine schedules answers itself, at most `batch_size`.

    The model's weights go to the engine by a temporary folder. Draws are vLLM's own: the same seed
    gives other answers than `sample` does.

    Raises `InputError` as `sample` does, and for weights that are not finite, without vLLM, or for
    a `logits_processor`, such as the dial's, which needs both models beside each other.
    """
    ids, config = prepared(
        model, tokenizer, prompts, answers_per_prompt, max_new_tokens, batch_size, temperature
    )
    if logits_processor:
        raise InputError("backend: vllm takes no logits processor; use 'transformers'")
    try:
        engine: Any = importlib.import_module("vllm")
    except ImportError as error:
        raise InputError(
            "backend: vllm is not installed; `pip install vllm`, or use 'transformers'"
        ) from error
    check_weights(model, "model")  # the engine's logits are out of reach
    with tempfile.TemporaryDirectory(prefix="riskalign-") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        llm = engine.LLM(
            model=str(Path(folder)),
            dtype=str(model.dtype).removeprefix("torch."),
            seed=seed,
            max_num_seqs=batch_size,
            gpu_memory_utilization=_SHARE_OF_MEMORY,
            # A model's own defaults would bend the distribution whose tail is to be measured.
            generation_config="vllm",
        )
    n = answers_per_prompt if temperature > 0 else 1  # the engine refuses several greedy answers
    settings = [
        engine.SamplingParams(
            n=n,
            temperature=float(temperature),
            top_p=top_p,
            max_tokens=max_new_tokens,
            # A prompt's k-th answer is drawn by its seed + k; no two answers may share one.
            seed=(seed % 2**30) * 2**32 + i * n,
            stop_token_ids=config.eos_token_id or [],
        )
        for i in range(len(ids))
    ]
    requests = [{"prompt_token_ids": row} for row in ids]
    outputs = llm.generate(requests, settings, use_tqdm=False)
    answers = [
        [to_answer(prompt.id, list(made.token_ids), config, tokenizer) for made in output.outputs]
        * (answers_per_prompt // n)
        for prompt, output in zip(prompts, outputs, strict=True)
    ]
    if progress:
        total = len(prompts) * answers_per_prompt
        progress(total, total)
    return answers
