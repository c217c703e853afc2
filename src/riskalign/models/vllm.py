"""Answers by vLLM: one engine for a model, started here, or a server that runs already."""

import asyncio
import atexit
import contextlib
import importlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from riskalign.errors import InputError, door
from riskalign.models.companion import Companion
from riskalign.models.dial import check_vocabularies
from riskalign.models.merge import refuse_weight
from riskalign.models.sampling import Answer, answer_keys, prepared, to_answer
from riskalign.models.vllm_server import VllmConfig, VllmRequest, ask_server
from riskalign.models.weights import check_weights, fingerprint, states_fingerprint
from riskalign.worlds import Prompt

_DIAL = "riskalign.models.vllm_dial:VllmDial"
_SHORTEST = 1024  # tokens; an engine for longer texts serves shorter ones as well
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM can be started for
_COLDEST = 0.01  # which it would raise lower temperatures to
_PATIENCE = 60.0  # seconds for an engine's processes to end
_SEED_BITS = 62  # vLLM's seeds are signed numbers of 64 bits


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
    dial_to: tuple[Any, float] | None = None,
    vllm: VllmConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Answer]]:
    """As `sample`, by a vLLM engine that takes in at most `batch_size` answers at once.

    The engine stays for the next call with the same weights, until another model's or
    `close_engine` ends it; only one is there at a time. A dial's points share one, and so do the
    LoRA adapters of one base. While it works, the models are off the GPU.
    With `vllm.base_url` no engine is started: the served model that gives this model's log
    probabilities is asked. Each answer has a seed from what `sample` gives it random numbers by;
    the draws are vLLM's own, and so the answers are others than `sample`'s.

    Raises `InputError` as `sample` does, and for weights that are not finite, without vLLM, for
    models or adapters that it cannot take, or a server that has no such model.
    """
    ids, config = prepared(
        model, tokenizer, prompts, answers_per_prompt, max_new_tokens, batch_size, temperature
    )
    settings = vllm or VllmConfig()
    if 0 < temperature < _COLDEST:
        raise InputError(f"temperature: vLLM takes 0, or {_COLDEST} and more; got {temperature}")
    check_weights(model, "model")  # the engine's logits are out of reach
    n = answers_per_prompt if temperature > 0 else 1  # the likeliest answers are all alike
    keys = answer_keys(prompts, n, seed)
    requests = [
        VllmRequest(row, key >> (128 - _SEED_BITS))
        for row, own in zip(ids, keys, strict=True)
        for key in own
    ]
    how = {
        "temperature": float(temperature),
        "top_p": top_p,
        "max_tokens": max_new_tokens,
        "stop_token_ids": config.eos_token_id or [],
    }
    each = answers_per_prompt // n

    def tell(done: int) -> None:
        if progress:
            progress(done * each, len(requests) * each)

    if settings.base_url is not None:
        if dial_to is not None:
            raise InputError(
                "vllm.base_url: what a server's dial samples from cannot be checked. Set it to "
                "null, and an engine is started here."
            )
        made = ask_server(settings, model, requests, how, batch_size, tell)
    else:
        longest = max(map(len, ids)) + max_new_tokens
        with aside(model, *(dial_to or ())[:1]):
            engine = _engine_for(model, dial_to, settings, batch_size, longest)
            if dial_to is not None:
                how["extra_args"] = {"w": dial_to[1]}
            made = engine.answers(requests, how, engine.adapter(model), tell)
    drawn = iter(made)
    answers = [
        [to_answer(prompt.id, next(drawn), config, tokenizer) for _ in range(n)] * each
        for prompt in prompts
    ]
    return answers


@contextlib.contextmanager
def aside(*models: Any) -> Iterator[None]:
    """Within it the models' weights are in main memory, so that an engine has the GPU's."""
    places = [(model, model.device) for model in models if model.device.type == "cuda"]
    for model, _ in places:
        model.to("cpu")
    if places:
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        for model, device in places:
            model.to(device)


class _Held(NamedTuple):
    """What an engine was started for."""

    weights: tuple[str, ...]
    dtype: str
    batch_size: int
    settings: VllmConfig
    rank: int  # of adapters; 0 for none


class _Engine:
    """A vLLM engine in processes of its own, and the folder with what it has loaded."""

    def __init__(self, held: _Held, longest: int, parts: Mapping[str, Any], w: float) -> None:
        self.held, self.longest = held, longest
        vllm = _vllm()
        settings, cuda = held.settings, torch.cuda.is_available()
        self._folder = tempfile.TemporaryDirectory(prefix="riskalign-")
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count()
        self._adapters: dict[str, Any] = {}
        self._asleep = False
        options: dict[str, Any] = {
            "max_model_len": longest,
            "enforce_eager": settings.enforce_eager,
        }
        if settings.gpu_memory_utilization is not None:
            options["gpu_memory_utilization"] = settings.gpu_memory_utilization
        if held.rank:
            options |= {"enable_lora": True, "max_lora_rank": held.rank}
        for name, model in parts.items():
            _save(model, Path(self._folder.name) / name)
        if "model_2" in parts:
            second = {"model_2": str(Path(self._folder.name) / "model_2"), "w": w}
            options |= {
                "logits_processors": [_DIAL],
                "additional_config": {"riskalign_dial": second},
            }
        given = vllm.AsyncEngineArgs(
            model=str(Path(self._folder.name) / "model_1"),
            dtype=held.dtype,
            max_num_seqs=held.batch_size,
            tensor_parallel_size=settings.tensor_parallel_size,
            data_parallel_size=settings.data_parallel_size,
            # A model's own defaults would bend the distribution whose tail is to be measured.
            generation_config="vllm",
            skip_tokenizer_init=True,  # it is given token ids, and gives them
            disable_log_stats=True,
            enable_sleep_mode=cuda,
            **options,
        )

        async def start() -> Any:
            return vllm.AsyncLLMEngine.from_engine_args(given)

        remedy = "What it said is above: change the settings vllm, or use 'transformers'."
        with (
            _environment("model_2" in parts),
            door("vllm: the engine cannot be started", remedy),
        ):
            self._llm = self._loop.run_until_complete(start())

    def answers(
        self,
        requests: Sequence[VllmRequest],
        how: Mapping[str, Any],
        adapter: Any,
        tell: Callable[[int], None],
    ) -> list[list[int]]:
        """Token ids of each request's answer, its end included."""
        vllm, done = _vllm(), itertools.count(1)

        async def ask(request: VllmRequest) -> list[int]:
            params = vllm.SamplingParams(seed=request.seed, detokenize=False, **how)
            tokens: list[int] = []
            async for output in self._llm.generate(
                {"prompt_token_ids": request.prompt},
                params,
                str(next(self._numbers)),
                lora_request=adapter,
            ):
                tokens = list(output.outputs[0].token_ids)
            tell(next(done))
            return tokens

        async def ask_all() -> list[list[int]]:
            if self._asleep:
                await self._llm.wake_up()
                self._asleep = False
            made = await asyncio.gather(*map(ask, requests))
            if torch.cuda.is_available():  # its memory is the models' until it is asked again
                await self._llm.sleep(1)
                self._asleep = True
            return made

        return self._loop.run_until_complete(ask_all())

    def adapter(self, model: Any) -> Any:
        """The request for a model's adapter, which is written for the engine once; None without."""
        if not self.held.rank:
            return None
        name = fingerprint(model)
        if name not in self._adapters:
            number = len(self._adapters) + 1
            folder = Path(self._folder.name) / f"adapter_{number}"
            model.save_pretrained(folder)
            lora = importlib.import_module("vllm.lora.request")
            self._adapters[name] = lora.LoRARequest(name, number, str(folder))
        return self._adapters[name]

    def close(self) -> None:
        """End its processes and remove its folder."""
        self._llm.shutdown(timeout=_PATIENCE)
        self._loop.run_until_complete(asyncio.sleep(0))
        self._llm = None
        self._loop.close()
        self._folder.cleanup()


_now: list[_Engine] = []  # the one engine there is


@atexit.register
def close_engine() -> None:
    """End the engine that sampled last, if it is still there, and free what it holds."""
    while _now:
        _now.pop().close()


def _engine_for(
    model: Any,
    dial_to: tuple[Any, float] | None,
    settings: VllmConfig,
    batch_size: int,
    longest: int,
) -> _Engine:
    """The engine there is, where it has this model; else a new one in its place."""
    parts = {"model_1": model}
    rank = _adapter_rank(model)
    if dial_to is not None:
        second, w = dial_to
        refuse_weight(w)
        if rank or isinstance(second, PeftModel):
            raise InputError("dial: vLLM takes no adapters beside it; merge them into the models")
        check_vocabularies(model, second)
        check_weights(second, "dial: model_2")
        Companion(second)
        parts["model_2"] = second
    weights = tuple(states_fingerprint(_base_states(part)) for part in parts.values())
    dtype = str(model.dtype).removeprefix("torch.")
    held = _Held(weights, dtype, batch_size, settings, rank)
    if _now and _now[0].held == held and longest <= _now[0].longest:
        return _now[0]
    close_engine()
    _now.append(_Engine(held, _room(model, settings, longest), parts, dial_to[1] if dial_to else 0))
    return _now[0]


def _room(model: Any, settings: VllmConfig, longest: int) -> int:
    """Tokens of the longest text that the engine is to take; `InputError` for too small a limit."""
    if settings.max_model_len is None:
        limit = getattr(model.config, "max_position_embeddings", None)
        wide = max(_SHORTEST, 1 << (longest - 1).bit_length())
        return min(wide, limit) if isinstance(limit, int) else wide
    if settings.max_model_len < longest:
        raise InputError(
            f"vllm.max_model_len: {settings.max_model_len} tokens are fewer than the longest "
            f"prompt and its answer, {longest}. Raise it, or lower max_new_tokens."
        )
    return settings.max_model_len


def _adapter_rank(model: Any) -> int:
    """What rank an engine for a PEFT model's adapter is started for; 0 for a plain model.

    Raises `InputError` for what an engine's LoRA requests do not know.
    """
    if not isinstance(model, PeftModel):
        return 0
    adapter = model.active_peft_config
    kind, extra = str(getattr(adapter.peft_type, "value", "")), "modules_to_save"
    if (
        kind != "LORA"
        or getattr(adapter, extra, None)
        or adapter.use_dora
        or adapter.bias != "none"
    ):
        raise InputError(
            "backend: vllm takes plain LoRA adapters, without modules_to_save, biases or DoRA. "
            "Merge this one (merge_and_unload), or use 'transformers'."
        )
    return next((rank for rank in _RANKS if rank >= adapter.r), int(adapter.r))


def _base_states(model: Any) -> dict[str, torch.Tensor]:
    """The weights of a model, of an adapted one those of its base by their plain names."""
    if not isinstance(model, PeftModel):
        return dict(model.state_dict())
    base: Any = model.get_base_model()
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in base.state_dict().items()
        if ".lora_" not in name
    }


def _save(model: Any, folder: Path) -> None:
    """Write a model for the engine; of an adapted one its base."""
    if isinstance(model, PeftModel):
        base: Any = model.get_base_model()
        base.save_pretrained(folder, state_dict=_base_states(model))
    else:
        model.save_pretrained(folder)


@contextlib.contextmanager
def _environment(dial: bool) -> Iterator[None]:
    """What the engine's processes are to inherit: the dial needs vLLM's first model runner."""
    name, before = "VLLM_USE_V2_MODEL_RUNNER", os.environ.get("VLLM_USE_V2_MODEL_RUNNER")
    if dial:
        os.environ[name] = "0"
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before
        else:
            os.environ.pop(name, None)


def _vllm() -> Any:
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise InputError(
            "backend: vllm is not installed; `pip install vllm`, or use 'transformers'"
        ) from error
