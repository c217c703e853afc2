"""Sampling from `π_1^(1-w) π_2^w` must follow the definition, token by token, row by row."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel

from riskalign.errors import InputError
from riskalign.models.dial import DialLogitsProcessor, combine_logits, dial
from tests import tiny

PAD = 2
PROMPTS = [[10, 11, 12, 13, 14, 15], [20, 21], [30, 31, 32, 33]]


def _models(model_type: str = "llama") -> tuple[Any, Any]:
    """Neither ever ends a text, so that all rows are compared to their last token."""
    one, two = (tiny.make_model(model_type, seed=seed, eos_token_id=None) for seed in (1, 2))
    return one, two


def _batch(prompts: list[list[int]]) -> dict[str, Any]:
    width = max(map(len, prompts))
    return {
        "input_ids": torch.tensor([[PAD] * (width - len(row)) + row for row in prompts]),
        "attention_mask": torch.tensor(
            [[0] * (width - len(row)) + [1] * len(row) for row in prompts]
        ),
    }


@torch.no_grad()
def _definition(one: Any, two: Any, row: list[int], w: float) -> Tensor:
    """Probabilities [V] after one unpadded row, in float64, straight from the definition."""
    p_1, p_2 = (
        model(input_ids=torch.tensor([row])).logits[0, -1].double().softmax(dim=-1)
        for model in (one, two)
    )
    weights = p_1 ** (1 - w) * p_2**w
    result: Tensor = weights / weights.sum()
    return result


def _check_generation(one: Any, two: Any, w: float, inputs: dict[str, Any]) -> Tensor:
    """Sample with `π_w` and compare the distribution at each token with the definition."""
    torch.manual_seed(0)
    output = dial(one, two, w).generate(
        **inputs,
        max_new_tokens=6,
        do_sample=True,
        top_k=0,
        pad_token_id=PAD,
        output_scores=True,
        return_dict_in_generate=True,
    )
    length = inputs["input_ids"].shape[1]
    for i, (tokens, mask) in enumerate(
        zip(output.sequences.tolist(), inputs["attention_mask"], strict=True)
    ):
        start = length - int(mask.sum())
        for t, scores in enumerate(output.scores):
            expected = _definition(one, two, tokens[start : length + t], w)
            torch.testing.assert_close(
                scores[i].double().softmax(dim=-1), expected, rtol=1e-3, atol=1e-6
            )
    sequences: Tensor = output.sequences
    return sequences


@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 1.5, -0.5])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_generation_follows_the_definition(model_type: str, w: float) -> None:
    one, two = _models(model_type)
    _check_generation(one, two, w, _batch(PROMPTS))


def test_equal_rows_are_read_once_and_continue_apart() -> None:
    one, two = _models()
    inputs = _batch([PROMPTS[1], PROMPTS[0], PROMPTS[1], PROMPTS[1]])
    reads: list[tuple[int, ...]] = []
    two.register_forward_pre_hook(
        lambda module, args, kwargs: reads.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    tokens = _check_generation(one, two, 0.7, inputs)
    assert reads[0] == (2, 6)
    assert reads[1] == (4, 1)
    assert len({tuple(row) for row in tokens[[0, 2, 3]].tolist()}) > 1


@pytest.mark.parametrize(("w", "which"), [(0.0, 0), (1.0, 1)])
def test_ends_generate_as_each_model_alone(w: float, which: int) -> None:
    models = _models()
    inputs = _batch(PROMPTS)
    options: dict[str, Any] = {"max_new_tokens": 8, "pad_token_id": PAD}
    greedy = dial(*models, w).generate(**inputs, do_sample=False, **options)
    assert greedy.equal(models[which].generate(**inputs, do_sample=False, **options))
    sampled = []
    for model in (dial(*models, w), models[which]):
        torch.manual_seed(3)
        sampled.append(
            model.generate(**inputs, do_sample=True, top_k=0, temperature=1.3, **options)
        )
    assert sampled[0].equal(sampled[1])


def test_temperature_acts_on_the_mixture() -> None:
    one, two = _models()
    output = dial(one, two, 0.4).generate(
        **_batch(PROMPTS[:1]), max_new_tokens=1, do_sample=True, temperature=2.0, top_k=0,
        pad_token_id=PAD, output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    expected = _definition(one, two, PROMPTS[0], 0.4).sqrt()
    torch.testing.assert_close(
        output.scores[0][0].double().softmax(dim=-1),
        expected / expected.sum(),
        rtol=1e-3,
        atol=1e-6,
    )


def test_beams_and_several_sequences_a_prompt() -> None:
    """Beams change places; the best of three beams, by exhaustive definition of their scores."""
    one, two = _models()
    model = dial(one, two, 0.6)
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": PAD}
    inputs = _batch(PROMPTS)
    output = model.generate(
        **inputs, num_beams=3, num_return_sequences=3, length_penalty=0.0,
        output_scores=True, return_dict_in_generate=True, **options,
    )  # fmt: skip
    length = inputs["input_ids"].shape[1]
    for i, tokens in enumerate(output.sequences.tolist()):
        start = length - len(PROMPTS[i // 3])
        log_p = sum(
            float(_definition(one, two, tokens[start:end], 0.6)[tokens[end]].log())
            for end in range(length, len(tokens))
        )
        assert float(output.sequences_scores[i]) == pytest.approx(log_p, abs=1e-3)


def test_processor_alone_recognises_padding_and_new_prompts() -> None:
    one, two = _models()
    processor = DialLogitsProcessor(two, 0.5, pad_token_id=PAD)
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": PAD}
    for prompts in (PROMPTS, PROMPTS[::-1], PROMPTS[:1]):
        expected = dial(one, two, 0.5).generate(**_batch(prompts), **options)
        found = one.generate(
            **_batch(prompts), logits_processor=LogitsProcessorList([processor]), **options
        )
        assert found.equal(expected)


def test_cache_changes_nothing() -> None:
    one, two = _models()
    model = dial(one, two, 1.4)
    ids = torch.tensor(PROMPTS[:1])
    for _ in range(8):
        token = model(input_ids=ids).logits[:, -1].argmax(dim=-1, keepdim=True)
        ids = torch.cat([ids, token], dim=1)
    cached = model.generate(
        torch.tensor(PROMPTS[:1]), max_new_tokens=8, do_sample=False, pad_token_id=PAD
    )
    assert cached.equal(ids)


def test_excluded_tokens_stay_excluded() -> None:
    """By hand: uniform over the two allowed tokens in both models stays 0.5 and 0.5."""
    inf = float("inf")
    logits_1 = torch.tensor([-inf, 1.0, 1.0, 3.0])
    logits_2 = torch.tensor([5.0, 2.0, 2.0, -inf])
    for w in (-0.5, 0.0, 0.5, 1.0, 2.0):
        found = combine_logits(logits_1, logits_2, w).exp()
        torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 0.5, 0.0]))


def test_mixture_by_hand() -> None:
    """π_1 = (.8, .2), π_2 = (.5, .5): at w = 2, (1/.8 · .25, 1/.2 · .25) ∝ (.2, .8)."""
    found = combine_logits(torch.tensor([0.8, 0.2]).log(), torch.tensor([7.0, 7.0]), 2.0)
    torch.testing.assert_close(found.exp(), torch.tensor([0.2, 0.8]))


def test_bad_input() -> None:
    one, two = _models()
    other: PreTrainedModel = tiny.make_model(vocab_size=310)
    with pytest.raises(InputError, match=r"vocabularies differ \(304 and 310"):
        dial(one, other, 0.5)
    with pytest.raises(InputError, match="w: inf"):
        dial(one, two, float("inf"))
    with pytest.raises(InputError, match="w: nan"):
        DialLogitsProcessor(two, float("nan"))
    with pytest.raises(InputError, match="vocabularies differ"):
        DialLogitsProcessor(other, 0.5)(torch.tensor([[1]]), torch.zeros(1, 304))
    good, bad = torch.zeros(1, 4), torch.tensor([[0.0, float("nan"), 0.0, 0.0]])
    for pair in ((good, bad), (bad, good), (good, torch.full((1, 4), -torch.inf))):
        with pytest.raises(InputError, match="dial: a model's logits are NaN or infinite"):
            combine_logits(*pair, 0.5)
