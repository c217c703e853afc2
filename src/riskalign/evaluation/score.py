"""Score sampled answers: a world's programs, and the distance from the start model.

Shapes: R rows, L tokens of the longest row, N response tokens, V vocabulary, H hidden.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from riskalign.data import packed, plain, response_hidden
from riskalign.errors import InputError
from riskalign.models.sampling import Answer, prompt_token_ids
from riskalign.risk import Risk
from riskalign.tokens import Head, TokenStats, backbone_of, head_of, token_stats
from riskalign.worlds import Prompt, World
from riskalign.worlds.world import is_number, score_ahead

#: Padded tokens of one forward pass.
_TOKENS_AT_ONCE = 4096

#: A model, or the dial: models with the powers their distributions are multiplied at.
Policy = nn.Module | Sequence[tuple[nn.Module, float]]


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer with what a world's programs and the two models say of it.

    `kl` and `srr` are in nats, summed over the response tokens, against the start model, and NaN
    where they were not measured; `length` counts response tokens, the end-of-sequence token
    included.
    """

    prompt_id: str
    text: str
    reward: float
    cost: float
    kl: float
    srr: float
    length: int


@dataclass(frozen=True)
class _Row:
    """A prompt and one answer, or several that do not see each other."""

    prompt_ids: list[int]
    answers: list[tuple[int, list[int]]]  # (index among all answers, token ids)

    def __len__(self) -> int:
        return len(self.prompt_ids) + sum(len(ids) for _, ids in self.answers)


def score_answers(
    world: World | None,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Answer]],
    *,
    policy: Policy | None,
    start: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    risk: Risk,
    shared_prompt: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[ScoredAnswer]:
    """Reward, cost, and KL and SRR to the start model of each answer.

    Args:
        world: its programs score the answers; None leaves rewards and costs unmeasured (NaN).
        prompts: the prompts answered.
        answers: for each prompt its answers, as `riskalign.models.sampling.sample` returns them.
        policy: the model that gave them; or, for the dial, pairs (model, power) of a product of
            powers, for instance ``[(step1, 1 - w), (final, w)]``; or None, which leaves the
            distances unmeasured (NaN) and costs no forward pass.
        start: the model to measure the distance from; where it is `policy` itself nothing is
            computed and the distances are 0. It must not share adapters that `policy` switches.
        tokenizer: renders the prompts.
        risk: the measure of SRR, `sum_t risk_{z ~ start}[log start(z)/policy(z)]`; KL is the same
            sum with the mean. Both in nats, over response positions.
        shared_prompt: compute each prompt once for all of its answers, in packed batches, which
            every model must be able to (`can_share_prompt`).
        progress: called with (answers done, answers in all) after each batch.

    Returns:
        One `ScoredAnswer` each, prompt by prompt. No [tokens, vocabulary] tensor is held.

    Raises:
        InputError: a score or distance that is not finite, a negative cost, answers of another
            prompt, or a dial over models whose logits are capped.
    """
    flat = _flatten(prompts, answers)
    begin = math.nan if policy is None else 0.0
    distances = torch.full((2, len(flat)), begin, dtype=torch.float64)  # KL and SRR
    parts = [(policy, 1.0)] if isinstance(policy, nn.Module) else list(policy or ())
    if parts and [model for model, _ in parts] != [start]:
        rows = _rows(prompts, answers, tokenizer, shared_prompt)
        done = len(flat) - sum(len(row.answers) for row in rows)
        models = {id(model): model for model in (*(model for model, _ in parts), start)}
        training = [model for model in models.values() if model.training]
        for model in training:
            model.eval()
        with torch.inference_mode():
            head, head_ref = _head(parts), head_of(start)
            for chosen in _batches(rows):
                batch, labels, index = _collate(chosen, shared_prompt, head_ref.weight.device)
                hidden = {
                    key: response_hidden(backbone_of(model), batch) for key, model in models.items()
                }
                joined = torch.cat([hidden[id(model)] for model, _ in parts], dim=-1)
                stats = token_stats(joined, head, hidden[id(start)], head_ref, labels, risk)
                _refuse_not_finite(stats, index, flat)
                found = torch.stack([stats.kl, stats.risk]).double().cpu()
                distances.index_add_(1, index, found)
                done += sum(len(row.answers) for row in chosen)
                if progress:
                    progress(done, len(flat))
        for model in training:
            model.train()
    if world is not None:
        score_ahead(world, [(prompt, answer.text) for prompt, answer in flat])
    return [
        ScoredAnswer(
            prompt_id=prompt.id,
            text=answer.text,
            reward=math.nan if world is None else _checked(world, "reward", prompt, answer),
            cost=math.nan if world is None else _checked(world, "cost", prompt, answer),
            kl=kl,
            srr=srr,
            length=len(answer.token_ids),
        )
        for (prompt, answer), kl, srr in zip(flat, *distances.tolist(), strict=True)
    ]


def _refuse_not_finite(
    stats: TokenStats, index: Tensor, flat: Sequence[tuple[Prompt, Answer]]
) -> None:
    bad = ~torch.stack([stats.logp_policy, stats.kl, stats.risk]).isfinite().all(0).cpu()
    if bool(bad.any()):
        prompt, _ = flat[int(index[bad][0])]
        raise InputError(
            f"prompt {prompt.id!r}: the distance of an answer from the start model is NaN or "
            "infinite. A model is broken, or its precision too small for its weights: fetch or "
            "train it again, or measure in float32 (bf16: false)."
        )


def _flatten(
    prompts: Sequence[Prompt], answers: Sequence[Sequence[Answer]]
) -> list[tuple[Prompt, Answer]]:
    if len(prompts) != len(answers):
        raise InputError(f"{len(prompts)} prompts but answers to {len(answers)}")
    flat = [
        (prompt, answer) for prompt, own in zip(prompts, answers, strict=True) for answer in own
    ]
    for prompt, answer in flat:
        if answer.prompt_id != prompt.id:
            raise InputError(f"an answer to {answer.prompt_id!r} is given for {prompt.id!r}")
    return flat


def _checked(world: World, name: str, prompt: Prompt, answer: Answer) -> float:
    score = getattr(world, name)(prompt, answer.text)
    if not is_number(score) or (name == "cost" and score < 0):
        least = ", 0 or more" if name == "cost" else ""
        raise InputError(
            f"world {world.name!r}: its {name} of an answer to {prompt.id!r} is {score}; "
            f"it must be a finite number{least}"
        )
    return float(score)


def _rows(
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Answer]],
    tokenizer: PreTrainedTokenizerBase,
    shared_prompt: bool,
) -> list[_Row]:
    rows, index = [], itertools.count()
    for prompt, own in zip(prompts, answers, strict=True):
        ids = prompt_token_ids(tokenizer, prompt)
        numbered = [(i, a.token_ids) for a, i in zip(own, index, strict=False) if a.token_ids]
        together = [numbered] if shared_prompt else [[one] for one in numbered]
        rows += [_Row(ids, each) for each in together if each]
    return rows


def _batches(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Rows of like length together, the longest first so that memory peaks at once."""
    batch: list[_Row] = []
    for row in sorted(rows, key=lambda row: -len(row)):
        if batch and len(batch[0]) * (len(batch) + 1) > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _collate(
    rows: Sequence[_Row], shared_prompt: bool, device: torch.device
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """A batch of the rows, its N response tokens, and their index [N] among all answers."""
    parts = [(row.prompt_ids, [ids for _, ids in row.answers]) for row in rows]
    layout = packed(parts) if shared_prompt else plain(parts, pad_token_id=0)
    places = torch.cat([index for own in layout.hidden_index for index in own])
    batch = {**layout.inputs, "hidden_index": places}
    answers = [answer for row in rows for answer in row.answers]
    labels = torch.tensor([token for _, ids in answers for token in ids])
    answer = torch.tensor([i for i, ids in answers for _ in ids])
    return {name: tensor.to(device) for name, tensor in batch.items()}, labels.to(device), answer


def _head(parts: Sequence[tuple[nn.Module, float]]) -> Head:
    """The head whose logits, on the models' joined states, are the sum of power times logits."""
    heads = [head_of(model) for model, _ in parts]
    if len(parts) == 1 and parts[0][1] == 1:
        return heads[0]
    if any(head.softcap is not None for head in heads):
        raise InputError(
            "the distance of a dial is not defined through one head for models that cap their "
            "logits; score each model by itself"
        )
    scales = [power * head.scale for (_, power), head in zip(parts, heads, strict=True)]
    weights = [scale * head.weight for scale, head in zip(scales, heads, strict=True)]
    weight = torch.cat(weights, dim=1)
    both = zip(scales, heads, strict=True)
    biases = [scale * head.bias for scale, head in both if head.bias is not None]
    return Head(weight, torch.stack(biases).sum(0) if biases else None)
