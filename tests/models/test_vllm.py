"""The vLLM backend, against a stand-in for the engine that records what it is asked."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LogitsProcessorList

from riskalign.errors import InputError
from riskalign.models.sampling import BACKENDS, sample, sample_with_vllm
from riskalign.worlds import Prompt
from tests import tiny

PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": text},), {}) for i, text in enumerate("ab")]


class Engine:
    """Answers greedily with the model that it was given by folder, as vLLM's LLM would."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.model: Any = AutoModelForCausalLM.from_pretrained(options["model"])
        assert (Path(options["model"]) / "tokenizer.json").exists()

    def generate(self, requests: list[Any], per_request: list[Any], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        outputs = []
        seeds = [s.seed + k for s in per_request for k in range(s.n)]
        assert len(set(seeds)) == len(seeds)
        for request, settings in zip(requests, per_request, strict=True):
            assert settings.temperature > 0 or settings.n == 1
            ids = torch.tensor([request["prompt_token_ids"]])
            made = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=settings.max_tokens,
                eos_token_id=settings.stop_token_ids,
                pad_token_id=0,
            )[0, ids.shape[1] :]
            answer = SimpleNamespace(token_ids=tuple(made.tolist()))
            outputs.append(SimpleNamespace(outputs=[answer] * settings.n))
        return outputs


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(LLM=Engine, SamplingParams=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "vllm", stand_in)


@pytest.mark.usefixtures("engine")
def test_answers_are_those_of_the_model() -> None:
    model, tokenizer = tiny.make_model(), tiny.make_tokenizer()
    options: dict[str, Any] = {"answers_per_prompt": 2, "temperature": 0.0, "max_new_tokens": 6}
    told: list[tuple[int, int]] = []
    found = BACKENDS["vllm"](
        model, tokenizer, PROMPTS, **options, progress=lambda *done: told.append(done)
    )
    assert found == sample(model, tokenizer, PROMPTS, **options)
    assert told == [(4, 4)]
    options["temperature"] = 1.0
    drawn = sample_with_vllm(model, tokenizer, PROMPTS, **options)
    assert [len(own) for own in drawn] == [2, 2]


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny.make_model(), tiny.make_tokenizer()
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match="vllm is not installed"):
        sample_with_vllm(model, tokenizer, PROMPTS, answers_per_prompt=1)
    with pytest.raises(InputError, match="answers_per_prompt: must be at least 1"):
        sample_with_vllm(model, tokenizer, PROMPTS, answers_per_prompt=0)
    processors = LogitsProcessorList([lambda ids, scores: scores])
    with pytest.raises(InputError, match="takes no logits processor"):
        sample_with_vllm(
            model, tokenizer, PROMPTS, answers_per_prompt=1, logits_processor=processors
        )
