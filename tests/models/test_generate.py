"""Sampling: the shared reading of a prompt must not change what is sampled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from riskalign.errors import InputError
from riskalign.models import sampling
from riskalign.models.sampling import prompt_token_ids, sample, shares
from riskalign.worlds import Prompt
from tests import tiny
from tests.broken import break_model

PROMPTS = [
    Prompt(str(i), ({"role": "user", "content": text},))
    for i, text in enumerate(["a b c", "a", "c b a b c a b c", "b b"])
]


def test_greedy_equals_a_plain_loop_without_cache_or_padding(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    model = tiny_model().eval()
    found = sample(
        model, tiny_tokenizer, PROMPTS, answers_per_prompt=3, temperature=0, max_new_tokens=6
    )
    for prompt, answers in zip(PROMPTS, found, strict=True):
        ids = prompt_token_ids(tiny_tokenizer, prompt)
        expected: list[int] = []
        while len(expected) < 6 and tiny_tokenizer.eos_token_id not in expected:
            with torch.no_grad():
                logits = model(torch.tensor([ids + expected])).logits[0, -1]
            expected.append(int(logits.argmax()))
        assert [answer.token_ids for answer in answers] == [expected] * 3
        assert {answer.prompt_id for answer in answers} == {prompt.id}


def test_shared_reading_gives_the_samples_of_separate_readings(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"answers_per_prompt": 4, "max_new_tokens": 8, "seed": 5}
    model = tiny_model()
    shared = sample(model, tiny_tokenizer, PROMPTS, **settings)
    monkeypatch.setattr(sampling, "_KEYS_AND_VALUES", set())
    assert shared == sample(model, tiny_tokenizer, PROMPTS, **settings)


def test_a_prompt_may_be_split_over_batches(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    calls: list[tuple[int, int]] = []
    found = sample(
        tiny_model(),
        tiny_tokenizer,
        PROMPTS,
        answers_per_prompt=5,
        batch_size=3,
        max_new_tokens=4,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert [len(answers) for answers in found] == [5] * 4
    assert calls == [(n, 20) for n in (3, 5, 8, 10, 13, 15, 18, 20)]


def test_an_answer_depends_on_seed_prompt_and_place_alone(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    model = tiny_model()
    settings: dict[str, Any] = {"answers_per_prompt": 3, "max_new_tokens": 8, "seed": 4}
    whole = sample(model, tiny_tokenizer, PROMPTS, **settings)
    for size in (1, 2, 5, 7):
        assert sample(model, tiny_tokenizer, PROMPTS, batch_size=size, **settings) == whole
    assert sample(model, tiny_tokenizer, PROMPTS[2:0:-1], **settings) == whole[2:0:-1]
    fewer = sample(model, tiny_tokenizer, PROMPTS, **settings | {"answers_per_prompt": 2})
    assert fewer == [own[:2] for own in whole]
    # The same prompt twice is asked for other answers, not for the same ones again.
    twice = sample(model, tiny_tokenizer, [PROMPTS[1], PROMPTS[1]], **settings)
    six = sample(model, tiny_tokenizer, [PROMPTS[1]], **settings | {"answers_per_prompt": 6})
    assert [*twice[0], *twice[1]] == six[0]
    assert len({tuple(answer.token_ids) for answer in six[0]}) == 6


@pytest.mark.parametrize("processes", [1, 2, 3, 9])
def test_shares_make_the_batches_of_the_whole(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any, processes: int
) -> None:
    """Byte by byte: the logits that a batch's rows are drawn from are those of the whole."""
    model, seen = tiny_model(), []
    model.lm_head.register_forward_hook(lambda *of: seen.append(of[-1].numpy().tobytes()))
    prompts = [Prompt(f"{n}", PROMPTS[n % 4].messages) for n in range(11)]
    sizes = {"answers_per_prompt": 2, "batch_size": 7}
    options: dict[str, Any] = {"max_new_tokens": 3, **sizes}
    whole = sample(model, tiny_tokenizer, prompts, **options)
    of_whole, parts = sorted(seen), shares(tiny_tokenizer, prompts, processes=processes, **sizes)
    seen.clear()
    found: dict[int, Any] = {}
    for part in parts:
        answers = sample(model, tiny_tokenizer, [prompts[i] for i in part], **options)
        found |= dict(zip(part, answers, strict=True))
    assert [found[i] for i in range(11)] == whole
    assert sorted(seen) == of_whole
    with pytest.raises(InputError, match="several have one id"):
        shares(tiny_tokenizer, prompts[:1] * 2, processes=2, **sizes)


def test_the_seed_decides_and_the_callers_random_state_is_kept(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    model = tiny_model().train()
    settings: dict[str, Any] = {"answers_per_prompt": 2, "max_new_tokens": 6}
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = sample(model, tiny_tokenizer, PROMPTS, seed=1, **settings)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert first == sample(model, tiny_tokenizer, PROMPTS, seed=1, **settings)
    assert first != sample(model, tiny_tokenizer, PROMPTS, seed=2, **settings)


def test_samples_follow_the_models_distribution(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    """The first token of 4,000 answers; chi-square within its 99.9 % bound."""
    from scipy.stats import chi2

    model = tiny_model().eval()
    n = 4000
    [answers] = sample(
        model, tiny_tokenizer, PROMPTS[:1], answers_per_prompt=n, max_new_tokens=1, batch_size=500
    )
    ids = prompt_token_ids(tiny_tokenizer, PROMPTS[0])
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0, -1].softmax(-1) * n
    counts = torch.bincount(
        torch.tensor([answer.token_ids[0] for answer in answers]), minlength=len(expected)
    )
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < chi2.ppf(0.999, len(expected) - 1)


def test_bad_arguments(tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> None:
    with pytest.raises(InputError, match="answers_per_prompt"):
        sample(tiny_model(), tiny_tokenizer, PROMPTS, answers_per_prompt=0)
    with pytest.raises(InputError, match="temperature"):
        sample(tiny_model(), tiny_tokenizer, PROMPTS, answers_per_prompt=1, temperature=-1)
    with pytest.raises(InputError, match=r"has \d+ tokens; with max_new_tokens 48 .* 50 positions"):
        sample(
            tiny_model(max_position_embeddings=50), tiny_tokenizer, PROMPTS, answers_per_prompt=1
        )
    import copy

    plain = copy.deepcopy(tiny_tokenizer)
    plain.chat_template = None
    with pytest.raises(InputError, match="chat template"):
        sample(tiny_model(), plain, PROMPTS, answers_per_prompt=1)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_p": 0.9}])
@pytest.mark.parametrize("how", ["nan", "infinity"])
def test_broken_logits_name_their_prompt(
    how: str, options: dict[str, Any], tiny_tokenizer: Any
) -> None:
    model = break_model(tiny.make_model(), how)
    with pytest.raises(InputError, match=r"^prompt '.*': the logits of its next token are NaN"):
        sample(model, tiny_tokenizer, PROMPTS, answers_per_prompt=2, **options)
