"""Sampled answers, in batches that read each prompt once, rows sorted by length."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
from riskalign.models.dial import DialLogitsProcessor
from riskalign.models.draw import Draw, answer_key, levels
from riskalign.worlds import Prompt

Backend = Literal["transformers", "vllm"]
_KEYS_AND_VALUES = {f"{kind}ForCausalLM" for kind in ("Llama", "Mistral", "Qwen2", "Qwen3")}


@dataclass(frozen=True)
class Answer:
    """One sampled answer.

    `text` is without special tokens and the white space around it, `token_ids` with the
    end-of-sequence token where it was reached; `finished` says whether the model ended the answer
    itself within `max_new_tokens`.
    """

    prompt_id: str
    text: str
    token_ids: list[int]
    finished: bool


def prompt_token_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """The token ids of `prompt` up to where the answer starts.

    Raises `InputError` without a chat template, or with one that leaves out what messages say.
    """
    if not tokenizer.chat_template:
        raise InputError(
            "model: its tokenizer has no chat template, which a world's conversations need; "
            "set tokenizer.chat_template and save the tokenizer with the model"
        )
    template = Template(tokenizer, {})
    template.check_messages(prompt.messages)
    rendered = template.write(prompt.messages, add_generation_prompt=True)
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


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
    dial_to: tuple[Any, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Answer]]:
    """For each prompt, in order, `answers_per_prompt` answers, all sampled independently.

    A `temperature` of 0 takes the likeliest token each time; `top_p` is the nucleus' mass, 1 the
    whole distribution; `batch_size` answers are in flight at once, of whole prompts where a prompt
    has no more. With `dial_to=(model_2, w)` the answers are of `π_w ∝ model^(1-w) model_2^w`
    (`riskalign.models.dial`), before temperature and top_p. `progress(answers done, answers in
    all)` is called after each batch.

    The k-th answer to a prompt has random numbers of its own, from `seed`, the prompt's id and k;
    a prompt that is there again counts on. Other prompts, the batch size and the device leave them
    as they are. Logits are rounded otherwise in other batches, which still changes some answers,
    in bfloat16 most (docs/log.md): `shares` splits prompts so that batches stay as they are.

    Raises `InputError` for a number out of range, a tokenizer without chat template, a prompt that
    with its answer may be longer than the model has positions for, or logits that are not finite.
    """
    ids, config = prepared(
        model, tokenizer, prompts, answers_per_prompt, max_new_tokens, batch_size, temperature
    )
    # A dial's companion model reads the whole prompt by itself, so a shared reading serves only
    # plain models, of kinds whose cache holds keys and values and nothing else.
    kind, window = type(model).__name__, getattr(model.config, "sliding_window", None)
    shared = dial_to is None and kind in _KEYS_AND_VALUES and not window
    answers: list[list[Answer]] = [[] for _ in prompts]
    was_training = model.training
    model.eval()
    warpers: list[LogitsProcessor] = []
    if temperature not in (0, 1):
        warpers.append(TemperatureLogitsWarper(float(temperature)))
    if top_p < 1 and temperature > 0:
        warpers.append(TopPLogitsWarper(top_p))
    keys = answer_keys(prompts, answers_per_prompt, seed)
    batches: list[list[tuple[int, int]]] = []
    for group in _groups([len(row) for row in ids], answers_per_prompt, batch_size):
        asked = [(i, key) for i in group for key in keys[i]]
        batches += [asked[at : at + batch_size] for at in range(0, len(asked), batch_size)]
    done = 0
    with torch.inference_mode():
        for batch in batches:
            widths = [len(ids[i]) for i, _ in batch]
            width = max(widths)
            uniform = None
            if temperature > 0:
                uniform = levels([key for _, key in batch], max_new_tokens).to(model.device)
            draw = Draw(uniform, start=width, prompts=[prompts[i].id for i, _ in batch])
            first: list[LogitsProcessor] = []
            if dial_to is not None:
                mask = torch.tensor([[0] * (width - n) + [1] * n for n in widths])
                first = [DialLogitsProcessor(*dial_to, attention_mask=mask)]
            processors = LogitsProcessorList([*first, *warpers, draw])
            rows = [(ids[i], n) for i, n in Counter(i for i, _ in batch).items()]
            new = _generate(model, rows, config, shared, processors)
            for (i, _), row in zip(batch, new.tolist(), strict=True):
                answers[i].append(to_answer(prompts[i].id, row, config, tokenizer))
            done += len(batch)
            if progress:
                progress(done, len(prompts) * answers_per_prompt)
    model.train(was_training)
    return answers


def answer_keys(prompts: Sequence[Prompt], answers_per_prompt: int, seed: int) -> list[list[int]]:
    """What the draws of each prompt's answers depend on; a prompt that is there again counts on."""
    before: Counter[str] = Counter()
    keys = []
    for prompt in prompts:
        first = before[prompt.id]
        before[prompt.id] += answers_per_prompt
        keys.append([answer_key(seed, prompt.id, k) for k in range(first, before[prompt.id])])
    return keys


def _groups(lengths: Sequence[int], answers_per_prompt: int, batch_size: int) -> list[list[int]]:
    """Places of the prompts that are answered together, the longest first: memory peaks at once."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    whole = max(1, batch_size // answers_per_prompt)
    return [order[at : at + whole] for at in range(0, len(order), whole)]


def shares(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    answers_per_prompt: int,
    batch_size: int,
    processes: int,
) -> list[list[int]]:
    """Which of the prompts each process is to sample: their places, ascending.

    A process's `sample` of its share makes batches that `sample` of all prompts makes, so that the
    answers are the same to the last bit where processes compute alike (threads, device).

    Raises `InputError` for prompts of one id, whose answers would be the same in two shares.
    """
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise InputError("prompts: several have one id; give each its own to share them out")
    lengths = [len(prompt_token_ids(tokenizer, prompt)) for prompt in prompts]
    groups = _groups(lengths, answers_per_prompt, batch_size)
    return [sorted(i for group in groups[at::processes] for i in group) for at in range(processes)]


def prepared(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    answers_per_prompt: int,
    max_new_tokens: int,
    batch_size: int,
    temperature: float,
) -> tuple[list[list[int]], GenerationConfig]:
    """Token ids of the prompts, and what ends an answer; `InputError` as for `sample`."""
    counts = {"answers_per_prompt": answers_per_prompt, "max_new_tokens": max_new_tokens}
    for name, value in {**counts, "batch_size": batch_size, "temperature": temperature}.items():
        least = 0.0 if name == "temperature" else 1
        if value < least:
            raise InputError(f"{name}: must be at least {least}, got {value}")
    ids = checked_prompts(model, tokenizer, prompts, max_new_tokens)
    # A fresh config: a model's own defaults (top_k, penalties) would bend the distribution whose
    # tail is to be measured.
    ends = getattr(model.generation_config, "eos_token_id", None)
    eos = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    eos_ids = sorted(token for token in eos if token is not None)
    pad = tokenizer.pad_token_id
    config: Any = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=eos_ids or None,
        pad_token_id=pad if pad is not None else (eos_ids[0] if eos_ids else 0),
        do_sample=False,  # `Draw` has drawn by then
        disable_compile=True,  # compiling costs more than it saves on answers this short
    )
    return ids, config


def checked_prompts(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], max_new_tokens: int
) -> list[list[int]]:
    """Token ids of prompts that the model can answer; `InputError` as for `sample`."""
    ids = [prompt_token_ids(tokenizer, prompt) for prompt in prompts]
    # Space at the ends and between words may be lost; words may not.
    said = {
        tuple(word for message in prompt.messages for word in str(message["content"]).split())
        for prompt in prompts
    }
    if len({tuple(row) for row in ids}) == 1 < len(said):
        raise InputError(
            f"the chat template of {tokenizer.name_or_path or 'the tokenizer'} writes different "
            "prompts alike, or nothing of them. Give another chat template."
        )
    limit = getattr(model.config, "max_position_embeddings", None)
    for prompt, row in zip(prompts, ids, strict=True):
        if isinstance(limit, int) and len(row) + max_new_tokens > limit:
            raise InputError(
                f"prompt {prompt.id!r} has {len(row)} tokens; with max_new_tokens "
                f"{max_new_tokens} that is more than the {limit} positions of the model. Shorten "
                "the prompt, or lower max_new_tokens."
            )
    return ids


def _generate(
    model: Any,
    rows: Sequence[tuple[list[int], int]],
    config: Any,
    shared: bool,
    logits_processor: LogitsProcessorList,
) -> Tensor:
    """The new tokens `[answers, new]` after prompts, each of which is to be answered n times."""
    width = max(len(prompt) for prompt, _ in rows)
    pad = [width - len(prompt) for prompt, _ in rows]
    tokens = torch.tensor(
        [[config.pad_token_id] * p + prompt for p, (prompt, _) in zip(pad, rows, strict=True)],
        device=model.device,
    )
    mask = torch.tensor([[0] * p + [1] * (width - p) for p in pad], device=model.device)
    repeats = torch.tensor([n for _, n in rows], device=model.device)
    index = torch.arange(len(rows), device=model.device).repeat_interleave(repeats)
    room = width + config.max_new_tokens
    cache = _read_once(model, tokens, mask, index, room) if shared else None
    extra = {} if cache is None else {"past_key_values": cache}
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


def to_answer(
    prompt_id: str, row: list[int], config: GenerationConfig, tokenizer: PreTrainedTokenizerBase
) -> Answer:
    """The answer of new tokens [L], cut after the first that ends it."""
    ends = config.eos_token_id or []
    end = next((i for i, token in enumerate(row) if token in ends), None)
    token_ids = row if end is None else row[: end + 1]
    text = str(tokenizer.decode(token_ids, skip_special_tokens=True)).strip()
    return Answer(prompt_id, text, token_ids, end is not None)
