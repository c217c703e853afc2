"""Batched sampling in which the answers to one prompt share one reading of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StaticCache,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from riskalign.data import Template
from riskalign.errors import InputError
from riskalign.models.sampling.draw import Draw, Likeliest
from riskalign.worlds.world import Prompt


@dataclass(frozen=True)
class Answer:
    """One sampled answer.

    Attributes:
        prompt_id: id of the prompt answered.
        text: the answer without special tokens, surrounding white space removed.
        token_ids: the answer's tokens, the end-of-sequence token included when it was reached.
        finished: whether the model ended the answer itself within ``max_new_tokens``.
    """

    prompt_id: str
    text: str
    token_ids: list[int]
    finished: bool


def prompt_token_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Return the token ids of `prompt` up to where the answer starts.

    Raises:
        InputError: the tokenizer has no chat template, or one that leaves out what messages say.
    """
    if not tokenizer.chat_template:
        raise InputError(
            "model: its tokenizer has no chat template, which a world's conversations need; "
            "set tokenizer.chat_template and save the tokenizer with the model"
        )
    Template(tokenizer, {}).check_messages(prompt.messages)
    rendered = tokenizer.apply_chat_template(
        list(prompt.messages), add_generation_prompt=True, tokenize=False
    )
    ids: list[int] = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    return ids


def sample(
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
    """Sample answers to each prompt.

    Args:
        model: a causal language model with ``generate``.
        tokenizer: its tokenizer, with a chat template.
        prompts: the conversations to answer.
        answers_per_prompt: answers to each, all sampled independently.
        temperature: softmax temperature; 0 takes the likeliest token each time.
        top_p: nucleus mass; 1 samples from the whole distribution.
        max_new_tokens: length limit of an answer, in tokens.
        batch_size: answers in flight at once.
        seed: of the sampler; the same seed, batch size and machine give the same answers.
        logits_processor: acts on the logits before temperature and top_p, as in ``generate``.
        progress: called with (answers done, answers in all) after each batch.

    Returns:
        For each prompt, in order, its `answers_per_prompt` answers.

    Raises:
        InputError: a number is out of range, the tokenizer has no chat template, a prompt and its
            answer may be longer than the model has positions for, or logits are not finite.
    """
    check_numbers(answers_per_prompt, max_new_tokens, batch_size, temperature)
    ids = checked_prompts(model, tokenizer, prompts, max_new_tokens)
    # A dial's companion model reads the whole prompt by itself, so a shared reading serves only
    # plain models.
    shared = logits_processor is None and _cache_can_be_repeated(model)
    config = generation_config(model, tokenizer, max_new_tokens)
    found: list[list[Answer]] = [[] for _ in prompts]
    was_training = model.training
    model.eval()
    done, total = 0, len(prompts) * answers_per_prompt
    with torch.random.fork_rng(devices=_cuda_devices(model)), torch.inference_mode():
        torch.manual_seed(seed)
        for rows in _batches(ids, answers_per_prompt, batch_size):
            prompt_ids = [ids[i] for i, _ in rows]
            repeats = [n for _, n in rows]
            names = [prompts[i].id for i, n in rows for _ in range(n)]
            processors = LogitsProcessorList(
                [*(logits_processor or []), *_drawing(temperature, top_p, names)]
            )
            new = _generate(model, prompt_ids, repeats, config, shared, processors)
            at = 0
            for i, n in rows:
                for row in new[at : at + n].tolist():
                    found[i].append(to_answer(prompts[i].id, row, config, tokenizer))
                at += n
            done += at
            if progress:
                progress(done, total)
    model.train(was_training)
    return found


def check_numbers(
    answers_per_prompt: int, max_new_tokens: int, batch_size: int, temperature: float
) -> None:
    """Refuse numbers out of range with `InputError`."""
    for name, value, least in (
        ("answers_per_prompt", answers_per_prompt, 1),
        ("max_new_tokens", max_new_tokens, 1),
        ("batch_size", batch_size, 1),
        ("temperature", temperature, 0.0),
    ):
        if value < least:
            raise InputError(f"{name}: must be at least {least}, got {value}")


def checked_prompts(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], max_new_tokens: int
) -> list[list[int]]:
    """Return the token ids of prompts that the model can answer.

    Raises:
        InputError: the tokenizer has no chat template, or a prompt and its answer may be longer
            than the model has positions for.
    """
    ids = [prompt_token_ids(tokenizer, prompt) for prompt in prompts]
    limit = getattr(model.config, "max_position_embeddings", None)
    for prompt, row in zip(prompts, ids, strict=True):
        if isinstance(limit, int) and len(row) + max_new_tokens > limit:
            raise InputError(
                f"prompt {prompt.id!r} has {len(row)} tokens; with max_new_tokens "
                f"{max_new_tokens} that is more than the {limit} positions of the model. Shorten "
                "the prompt, or lower max_new_tokens."
            )
    return ids


def _drawing(temperature: float, top_p: float, names: list[str]) -> list[LogitsProcessor]:
    if temperature == 0:
        return [Likeliest(names)]
    drawing: list[LogitsProcessor] = []
    if temperature != 1:
        drawing.append(TemperatureLogitsWarper(float(temperature)))
    if top_p < 1:
        drawing.append(TopPLogitsWarper(top_p))
    return [*drawing, Draw(names)]


def generation_config(
    model: Any, tokenizer: PreTrainedTokenizerBase, limit: int
) -> GenerationConfig:
    """Stop tokens and length, and nothing that bends the distribution."""
    # A fresh config: a model's own defaults (top_k, penalties) would bend the distribution whose
    # tail is to be measured.
    eos = {tokenizer.eos_token_id}
    own = getattr(model.generation_config, "eos_token_id", None)
    eos |= set(own) if isinstance(own, list) else {own}
    eos_ids = sorted(e for e in eos if e is not None)
    pad = tokenizer.pad_token_id
    settings: dict[str, Any] = {
        "max_new_tokens": limit,
        "eos_token_id": eos_ids or None,
        "pad_token_id": pad if pad is not None else (eos_ids[0] if eos_ids else 0),
        "do_sample": False,  # `Draw` has drawn by then
        "disable_compile": True,  # compiling costs more than it saves on answers this short
    }
    return GenerationConfig(**settings)


def _batches(
    ids: list[list[int]], per_prompt: int, batch_size: int
) -> Iterator[list[tuple[int, int]]]:
    """Yield rows (prompt, number of answers); long prompts first, so memory peaks at once."""
    batch: list[tuple[int, int]] = []
    room = batch_size
    for i in sorted(range(len(ids)), key=lambda i: (-len(ids[i]), i)):
        left = per_prompt
        while left:
            n = min(left, room)
            batch.append((i, n))
            left, room = left - n, room - n
            if not room:
                yield batch
                batch, room = [], batch_size
    if batch:
        yield batch


def _generate(
    model: Any,
    prompt_ids: list[list[int]],
    repeats: list[int],
    config: GenerationConfig,
    shared: bool,
    logits_processor: LogitsProcessorList,
) -> Tensor:
    """Return the new tokens, ``[sum(repeats), new]``."""
    assert isinstance(config.pad_token_id, int)
    width = max(len(row) for row in prompt_ids)
    pad = [width - len(row) for row in prompt_ids]
    tokens = torch.tensor(
        [[config.pad_token_id] * p + row for p, row in zip(pad, prompt_ids, strict=True)],
        device=model.device,
    )
    mask = torch.tensor([[0] * p + [1] * (width - p) for p in pad], device=model.device)
    index = torch.repeat_interleave(
        torch.arange(len(repeats), device=model.device),
        torch.tensor(repeats, device=model.device),
    )
    extra: dict[str, Any] = {}
    if shared:
        assert isinstance(config.max_new_tokens, int)
        room = width + config.max_new_tokens
        extra["past_key_values"] = _read_once(model, tokens, mask, index, room)
    out: Tensor = model.generate(
        input_ids=tokens[index],
        attention_mask=mask[index],
        generation_config=copy.deepcopy(config),
        logits_processor=logits_processor,
        **extra,
    )
    return out[:, width:]


def _read_once(model: Any, tokens: Tensor, mask: Tensor, index: Tensor, room: int) -> StaticCache:
    """Return the cache of each prompt but its last token, one row for each answer to come.

    It has its room of `room` tokens from the start: growing it by a token at a time would copy
    all of it at every step, which on a CPU costs as much as the matrix products.
    """
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    once = DynamicCache(config=model.config)
    model.model(
        input_ids=tokens[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=positions[:, :-1],
        past_key_values=once,
        use_cache=True,
    )
    cache = StaticCache(config=model.config, max_cache_len=room)
    layers: list[Any] = once.layers
    for i, layer in enumerate(layers):
        cache.update(layer.keys[index], layer.values[index], i)
    return cache


def _cache_can_be_repeated(model: Any) -> bool:
    # Llama-like models only: their cache holds keys and values and nothing else.
    return type(model).__name__ in {
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
    } and not getattr(model.config, "sliding_window", None)


def _cuda_devices(model: Any) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []


def to_answer(
    prompt_id: str, row: list[int], config: GenerationConfig, tokenizer: PreTrainedTokenizerBase
) -> Answer:
    """The answer of new tokens [L], cut after the first that ends it."""
    eos = config.eos_token_id
    ends = set(eos) if isinstance(eos, list) else {eos}
    end = next((i for i, token in enumerate(row) if token in ends), None)
    token_ids = row if end is None else row[: end + 1]
    text = str(tokenizer.decode(token_ids, skip_special_tokens=True)).strip()
    return Answer(prompt_id, text, token_ids, end is not None)
