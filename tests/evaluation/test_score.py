"""Scores of answers: distances against full-vocabulary sums, however the work is batched."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from riskalign.errors import InputError
from riskalign.evaluation import score
from riskalign.evaluation.score import ScoredAnswer, score_answers
from riskalign.models.sampling import Answer, prompt_token_ids
from riskalign.risk import get_risk
from riskalign.tokens import token_stats
from riskalign.worlds import Prompt, Split
from tests import tiny
from tests.broken import break_model

MakeModel = Callable[..., PreTrainedModel]


class Parcels:
    """Rewards the word Tuesday and charges for every digit 7."""

    name = "parcels"

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        return [
            Prompt(f"{split}-{i}", ({"role": "user", "content": "When? " * (1 + 3 * i)},))
            for i in range(n)
        ]

    def reward(self, prompt: Prompt, answer: str) -> float:
        return float("Tuesday" in answer)

    def cost(self, prompt: Prompt, answer: str) -> float:
        return float(answer.count("7"))


TEXTS = ["On Tuesday.", "The code is 77.", "", "It comes on Tuesday, code 7, I think."]


def answers_to(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> list[list[Answer]]:
    def answer(prompt: Prompt, text: str) -> Answer:
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id] if text else []
        return Answer(prompt.id, text, ids, finished=bool(text))

    return [[answer(prompt, text) for text in texts[i % 2 :]] for i, prompt in enumerate(prompts)]


def by_full_logits(
    prompt: Prompt,
    answer: Answer,
    tokenizer: PreTrainedTokenizerFast,
    log_probs: Callable[[torch.Tensor], torch.Tensor],
    start: PreTrainedModel,
    level: float,
) -> tuple[float, float]:
    """KL and SRR of one answer from both models' whole distributions, CVaR by sorting."""
    prompt_ids = prompt_token_ids(tokenizer, prompt)
    ids = torch.tensor([prompt_ids + answer.token_ids])
    positions = slice(len(prompt_ids) - 1, ids.shape[1] - 1)
    with torch.no_grad():
        policy = log_probs(ids)[0, positions].double()
        reference = start(ids).logits[0, positions].double().log_softmax(-1)
    kl = srr = 0.0
    for log_p, log_q in zip(reference, policy, strict=True):
        losses, order = (log_p - log_q).sort(descending=True)
        mass = log_p.exp()[order]
        kl += float((mass * losses).sum())
        left = (1 - level - (mass.cumsum(0) - mass)).clamp(min=0)
        srr += float((torch.minimum(mass, left) * losses).sum() / (1 - level))
    return kl, srr


def run(
    tokenizer: PreTrainedTokenizerFast,
    policy: Any,
    start: PreTrainedModel,
    *,
    judged: bool = True,
    **options: Any,
) -> tuple[list[Prompt], list[list[Answer]], list[ScoredAnswer]]:
    world = Parcels()
    prompts = world.prompts("eval", 3, 0)
    answers = answers_to(prompts, tokenizer, TEXTS)
    scored = score_answers(
        world if judged else None,
        prompts,
        answers,
        policy=policy,
        start=start,
        tokenizer=tokenizer,
        risk=get_risk("cvar:0.9"),
        **options,
    )
    return prompts, answers, scored


@pytest.mark.parametrize("shared_prompt", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("at_once", [1, 100, 4096])
def test_distances_are_those_of_full_distributions(
    at_once: int,
    attention: str,
    shared_prompt: bool,
    tiny_model: MakeModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(score, "_TOKENS_AT_ONCE", at_once)
    policy = tiny_model(seed=1, attn_implementation=attention)
    start = tiny_model(seed=2, attn_implementation=attention)
    policy.train()
    seen: list[tuple[int, int]] = []
    if shared_prompt and attention == "eager":  # which does not know of packed rows
        with pytest.raises(InputError, match="can_share_prompt"):
            run(tiny_tokenizer, policy, start, shared_prompt=True)
        return
    prompts, answers, scored = run(
        tiny_tokenizer,
        policy,
        start,
        shared_prompt=shared_prompt,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert policy.training
    policy.eval()
    flat = [answer for own in answers for answer in own]
    assert [(s.prompt_id, s.text, s.length) for s in scored] == [
        (a.prompt_id, a.text, len(a.token_ids)) for a in flat
    ]
    asked = {prompt.id: prompt for prompt in prompts}
    for s, a in zip(scored, flat, strict=True):
        expected = by_full_logits(
            asked[a.prompt_id],
            a,
            tiny_tokenizer,
            lambda ids: policy(ids).logits.log_softmax(-1),
            start,
            0.9,
        )
        assert (s.kl, s.srr) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert (s.srr > s.kl > 0) == bool(a.text)
    assert seen[-1] == (len(flat), len(flat))


def test_world_scores(tiny_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    start = tiny_model()
    _, _, scored = run(tiny_tokenizer, start, start)
    assert [s.reward for s in scored[:4]] == [1.0, 0.0, 0.0, 1.0]
    assert [s.cost for s in scored[:4]] == [0.0, 2.0, 0.0, 1.0]
    assert all(s.kl == s.srr == 0 for s in scored)


def test_distances_left_unmeasured(
    tiny_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    _, _, scored = run(tiny_tokenizer, None, tiny_model())
    assert all(math.isnan(s.kl) and math.isnan(s.srr) for s in scored)
    assert [s.cost for s in scored[:4]] == [0.0, 2.0, 0.0, 1.0]


def test_scores_left_unmeasured(
    tiny_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    models = tiny_model(seed=1), tiny_model(seed=2)
    _, _, with_world = run(tiny_tokenizer, *models)
    _, _, without = run(tiny_tokenizer, *models, judged=False)
    assert all(math.isnan(s.reward) and math.isnan(s.cost) for s in without)
    assert [(s.kl, s.srr) for s in without] == [(s.kl, s.srr) for s in with_world]


def test_the_same_weights_are_no_distance(
    tiny_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    _, _, scored = run(tiny_tokenizer, tiny_model(seed=3), tiny_model(seed=3))
    assert all(abs(s.kl) < 1e-5 and abs(s.srr) < 1e-5 for s in scored)


@pytest.mark.parametrize("w", [0.0, 0.4, 1.5])
@pytest.mark.parametrize("model_type", ["llama", "granite"])
def test_the_dial_is_the_product_of_powers(
    model_type: str, w: float, tiny_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """softmax((1 - w) log p1 + w log p2) is the normalised product p1^(1-w) p2^w."""
    scaled = {"logits_scaling": 4.0} if model_type == "granite" else {}
    step1, rsa, start = (tiny_model(model_type, seed=seed, **scaled) for seed in (1, 2, 3))
    prompts, answers, scored = run(tiny_tokenizer, [(step1, 1 - w), (rsa, w)], start)

    def mixed(ids: torch.Tensor) -> torch.Tensor:
        first, second = (model(ids).logits.log_softmax(-1) for model in (step1, rsa))
        product: torch.Tensor = (1 - w) * first + w * second
        return product.log_softmax(-1)

    for s, a in zip(scored[:2], answers[0][:2], strict=True):
        expected = by_full_logits(prompts[0], a, tiny_tokenizer, mixed, start, 0.9)
        assert (s.kl, s.srr) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_dial_at_its_own_reference_is_no_distance(
    tiny_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    step1, rsa = tiny_model(seed=1), tiny_model(seed=2)
    _, _, scored = run(tiny_tokenizer, [(step1, 0.0), (rsa, 1.0)], rsa)
    assert all(abs(s.kl) < 1e-5 for s in scored)


def test_capped_logits_have_no_dial(
    tiny_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny_model("gemma2", head_dim=8)
    with pytest.raises(InputError, match="cap their logits"):
        run(tiny_tokenizer, [(model, 0.5), (model, 0.5)], tiny_model())


def test_no_tokens_by_vocabulary_tensor(
    tiny_model: MakeModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the response's hidden states reach the statistics, which work in chunks."""
    rows: list[int] = []

    def watched(*args: Any, **options: Any) -> Any:
        rows.append(len(args[0]))
        return token_stats(*args, **options)

    monkeypatch.setattr(score, "token_stats", watched)
    _, answers, _ = run(tiny_tokenizer, tiny_model(seed=1), tiny_model(seed=2))
    assert sum(rows) == sum(len(a.token_ids) for own in answers for a in own)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("reward", float("nan"), r"world 'parcels': its reward .* 'eval-0' is nan"),
        ("cost", float("inf"), r"its cost .* is inf"),
        ("cost", -1.0, r"is -1.0; it must be a finite number, 0 or more"),
    ],
)
def test_broken_world(
    name: str,
    value: float,
    message: str,
    tiny_model: MakeModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Parcels, name, lambda self, prompt, answer: value)
    start = tiny_model()
    with pytest.raises(InputError, match=message):
        run(tiny_tokenizer, start, start)


def test_answers_must_belong_to_their_prompts(
    tiny_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    world, start = Parcels(), tiny_model()
    prompts = world.prompts("eval", 2, 0)
    answers = answers_to(prompts, tiny_tokenizer, TEXTS)
    for given, message in ((answers[::-1], "'eval-1' is given for"), (answers[:1], "2 prompts")):
        with pytest.raises(InputError, match=message):
            score_answers(
                world,
                prompts,
                given,
                policy=start,
                start=start,
                tokenizer=tiny_tokenizer,
                risk=get_risk("mean"),
            )


@pytest.mark.parametrize("how", ["nan", "infinity"])
@pytest.mark.parametrize("which", ["policy", "start"])
def test_distances_that_are_not_finite_name_their_prompt(
    which: str, how: str, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """They used to be left out of the average, as if they had not been asked for."""
    models = {"policy": tiny.make_model(), "start": tiny.make_model(seed=1)}
    break_model(models[which], how)
    with pytest.raises(InputError, match=r"^prompt 'eval-.': the distance .* is NaN or infinite"):
        run(tiny_tokenizer, policy=models["policy"], start=models["start"])
