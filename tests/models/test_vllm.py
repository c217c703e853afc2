"""The vLLM backend, against a stand-in for the engine that records what it is asked.

The engine itself is checked by benchmarks/vllm_check.py.
"""

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from riskalign.errors import InputError
from riskalign.models.backends import BACKENDS
from riskalign.models.dial import dial
from riskalign.models.sampling import sample
from riskalign.models.vllm import close_engine, sample_with_vllm
from riskalign.models.vllm_server import VllmConfig
from riskalign.worlds import Prompt
from tests import tiny

PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": text},), {}) for i, text in enumerate("ab")]
GREEDY: dict[str, Any] = {"answers_per_prompt": 2, "temperature": 0.0, "max_new_tokens": 6}


class Engine:
    """Answers greedily with the models that it was given by folder, as vLLM's engine would."""

    started: list["Engine"]

    def __init__(self, options: Any) -> None:
        self.options, self.alive = options, True
        self.seeds: list[int] = []
        self.model: Any = AutoModelForCausalLM.from_pretrained(options.model)
        self.second: Any = None
        if hasattr(options, "additional_config"):
            folder = options.additional_config["riskalign_dial"]["model_2"]
            self.second = AutoModelForCausalLM.from_pretrained(folder)
        Engine.started.append(self)

    @classmethod
    def from_engine_args(cls, options: Any) -> "Engine":
        return cls(options)

    async def generate(
        self, prompt: dict[str, list[int]], settings: Any, name: str, lora_request: Any
    ) -> AsyncIterator[Any]:
        self.seeds.append(settings.seed)
        ids = torch.tensor([prompt["prompt_token_ids"]])
        model = self.model
        if lora_request is not None:
            base = AutoModelForCausalLM.from_pretrained(self.options.model)
            model = PeftModel.from_pretrained(base, lora_request.folder).merge_and_unload()
        if self.second is not None:
            model = dial(model, self.second, settings.extra_args["w"])
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=settings.max_tokens,
            eos_token_id=settings.stop_token_ids,
            pad_token_id=0,
        )[0, ids.shape[1] :]
        yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(made.tolist()))])

    def shutdown(self, timeout: float) -> None:
        self.alive = False


def _lora_request(name: str, number: int, folder: str) -> Any:
    assert number > 0
    return SimpleNamespace(folder=folder)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    stand_in = SimpleNamespace(
        AsyncLLMEngine=Engine, AsyncEngineArgs=SimpleNamespace, SamplingParams=SimpleNamespace
    )
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    lora = SimpleNamespace(LoRARequest=_lora_request)
    monkeypatch.setitem(sys.modules, "vllm.lora.request", lora)
    Engine.started = []
    yield
    close_engine()
    assert not any(each.alive for each in Engine.started)
    assert not any(Path(each.options.model).exists() for each in Engine.started)


@pytest.mark.usefixtures("engine")
def test_answers_are_those_of_the_model_from_one_engine() -> None:
    model, tokenizer = tiny.make_model(), tiny.make_tokenizer()
    told: list[tuple[int, int]] = []
    found = BACKENDS["vllm"](
        model, tokenizer, PROMPTS, **GREEDY, progress=lambda *done: told.append(done)
    )
    assert found == sample(model, tokenizer, PROMPTS, **GREEDY)
    assert told == [(2, 4), (4, 4)]
    drawn: dict[str, Any] = {"answers_per_prompt": 3, "max_new_tokens": 6, "seed": 5}
    sample_with_vllm(model, tokenizer, PROMPTS, **drawn)
    [engine] = Engine.started
    seeds = engine.seeds[2:]
    assert len(set(seeds)) == 6
    assert max(seeds) < 2**63
    # A seed is its answer's, whatever else is asked.
    sample_with_vllm(model, tokenizer, PROMPTS[1:], **drawn)
    assert engine.seeds[8:] == seeds[3:]
    # Longer texts than the engine was started for, and other weights, need another one.
    sample_with_vllm(model, tokenizer, PROMPTS[:1], **GREEDY | {"max_new_tokens": 490})
    assert [each.options.max_model_len for each in Engine.started] == [512]
    other = VllmConfig(max_model_len=100, tensor_parallel_size=2)
    sample_with_vllm(tiny.make_model(seed=1), tokenizer, PROMPTS, **GREEDY, vllm=other)
    assert [each.alive for each in Engine.started] == [False, True]
    assert Engine.started[1].options.max_model_len == 100
    assert Engine.started[1].options.tensor_parallel_size == 2
    with pytest.raises(InputError, match=r"vllm\.max_model_len: 100 tokens are fewer"):
        sample_with_vllm(model, tokenizer, PROMPTS, **GREEDY | {"max_new_tokens": 99}, vllm=other)


@pytest.mark.usefixtures("engine")
def test_points_of_a_dial_share_an_engine() -> None:
    one, two = (tiny.make_model(seed=seed) for seed in (1, 2))
    tokenizer = tiny.make_tokenizer()
    for w in (0.5, 1.5):
        found = sample_with_vllm(one, tokenizer, PROMPTS, **GREEDY, dial_to=(two, w))
        assert found == sample(one, tokenizer, PROMPTS, **GREEDY, dial_to=(two, w))
    [engine] = Engine.started
    assert engine.options.logits_processors == ["riskalign.models.vllm_dial:VllmDial"]
    smaller = tiny.make_model(vocab_size=303)
    with pytest.raises(InputError, match="vocabularies differ"):
        sample_with_vllm(one, tokenizer, PROMPTS, **GREEDY, dial_to=(smaller, 0.5))
    url = VllmConfig(base_url="http://localhost:1/v1")
    with pytest.raises(InputError, match="a server's dial"):
        sample_with_vllm(one, tokenizer, PROMPTS, **GREEDY, dial_to=(two, 0.5), vllm=url)


@pytest.mark.usefixtures("engine")
def test_adapters_of_one_base_share_an_engine() -> None:
    tokenizer = tiny.make_tokenizer()
    for seed in (1, 2):
        torch.manual_seed(seed)
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model = get_peft_model(tiny.make_model(), config)
        found = sample_with_vllm(model, tokenizer, PROMPTS, **GREEDY)
        merged = model.merge_and_unload()
        assert found == sample(merged, tokenizer, PROMPTS, **GREEDY)
    [engine] = Engine.started
    assert engine.options.max_lora_rank == 8
    whole = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(InputError, match="plain LoRA adapters"):
        sample_with_vllm(get_peft_model(tiny.make_model(), whole), tokenizer, PROMPTS, **GREEDY)


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny.make_model(), tiny.make_tokenizer()
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match="vllm is not installed"):
        sample_with_vllm(model, tokenizer, PROMPTS, answers_per_prompt=1)
    with pytest.raises(InputError, match="answers_per_prompt: must be at least 1"):
        sample_with_vllm(model, tokenizer, PROMPTS, answers_per_prompt=0)
