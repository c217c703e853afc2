"""Score sampled answers: a world's programs, and the distance from the start model.

Shapes: R rows, L tokens of the longest row, N response tokens, V vocabulary, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from riskalign.data import response_hidden
from riskalign.data.collate import PAD, PROMPT
from riskalign.environments import Prompt, World
from riskalign.errors import InputError
from riskalign.evaluation.metrics import ScoredAnswer
from riskalign.risk import Risk
from riskalign.sampling import Answer
from riskalign.sampling.generate import prompt_token_ids
from riskalign.tokens import Head, backbone_of, head_of, token_stats

#: Padded tokens of one forward pass.
_TOKENS_AT_ONCE = 4096

#: A model, or the dial: models with the powers their distributions are multiplied at.
Policy = nn.Module | Sequence[tuple[nn.Module, float]]


@dataclass(frozen=True)
class _Row:
    """A prompt and one answer, or several that do not see each other."""

    prompt_ids: list[int]
    answers: list[tuple[int, list[int]]]  # (index among all answers, token ids)

    def __len__(self) -> int:
        return len(self.prompt_ids) + sum(len(ids) for _, ids in self.answers)


class _Batch(NamedTuple):
    input_ids: Tensor  # [R, L]
    position_ids: Tensor  # [R, L]
    segments: Tensor  # [R, L]: padding, prompt, then one number an answer
    hidden_index: Tensor  # [N] into the flattened [R * L] states
    labels: Tensor  # [N]
    answer: Tensor  # [N]: index among all answers


def score_answers(
    world: World,
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
        world: its programs score the answers.
        prompts: the prompts answered.
        answers: for each prompt its answers, as `riskalign.sampling.sample` returns them.
        policy: the model that gave them; or, for the dial, pairs (model, power) of a product of
            powers, for instance ``[(step1, 1 - w), (rsa, w)]``; or None, which leaves the
            distances unmeasured (NaN) and costs no forward pass.
        start: the model to measure the distance from; where it is `policy` itself nothing is
            computed and the distances are 0. It must not share adapters that `policy` switches.
        tokenizer: renders the prompts.
        risk: the measure of SRR, `sum_t risk_{z ~ start}[log start(z)/policy(z)]`; KL is the same
            sum with the mean. Both in nats, over response positions.
        shared_prompt: compute each prompt once for all of its answers, by a four-dimensional
            attention mask that both models must honour.
        progress: called with (answers done, answers in all) after each batch.

    Returns:
        One `ScoredAnswer` each, prompt by prompt. No [tokens, vocabulary] tensor is held.

    Raises:
        InputError: a score that is not finite, a negative cost, answers of another prompt, or a
            dial over models whose logits are capped.
    """
    flat = _flatten(prompts, answers)
    begin = math.nan if policy is None else 0.0
    kl = torch.full((len(flat),), begin, dtype=torch.float64)
    srr = torch.full((len(flat),), begin, dtype=torch.float64)
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
            device = head_ref.weight.device
            for chosen in _batches(rows):
                batch = _collate(chosen, device)
                hidden = {
                    key: response_hidden(
                        backbone_of(model), batch._asdict(), shared_prompt=shared_prompt
                    )
                    for key, model in models.items()
                }
                stats = token_stats(
                    torch.cat([hidden[id(model)] for model, _ in parts], dim=-1),
                    head,
                    hidden[id(start)],
                    head_ref,
                    batch.labels,
                    risk,
                )
                index = batch.answer.cpu()
                kl.index_add_(0, index, stats.kl.double().cpu())
                srr.index_add_(0, index, stats.risk.double().cpu())
                done += sum(len(row.answers) for row in chosen)
                if progress:
                    progress(done, len(flat))
        for model in training:
            model.train()
    return [
        ScoredAnswer(
            prompt_id=prompt.id,
            text=answer.text,
            reward=_finite(world, prompt, "reward", world.reward(prompt, answer.text)),
            cost=_finite(world, prompt, "cost", world.cost(prompt, answer.text)),
            kl=float(kl[i]),
            srr=float(srr[i]),
            length=len(answer.token_ids),
        )
        for i, (prompt, answer) in enumerate(flat)
    ]


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


def _finite(world: World, prompt: Prompt, name: str, score: float) -> float:
    if not math.isfinite(score) or (name == "cost" and score < 0):
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
    rows, index = [], 0
    for prompt, own in zip(prompts, answers, strict=True):
        ids = prompt_token_ids(tokenizer, prompt)
        numbered = [(index + i, answer.token_ids) for i, answer in enumerate(own)]
        index += len(own)
        numbered = [(i, token_ids) for i, token_ids in numbered if token_ids]
        if shared_prompt and numbered:
            rows.append(_Row(ids, numbered))
        else:
            rows += [_Row(ids, [one]) for one in numbered]
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


def _collate(rows: Sequence[_Row], device: torch.device) -> _Batch:
    length = len(rows[0])
    shape = (len(rows), length)
    input_ids = torch.zeros(shape, dtype=torch.long)
    position_ids = torch.zeros(shape, dtype=torch.long)
    segments = torch.full(shape, PAD, dtype=torch.long)
    hidden_index, labels, answer = [], [], []
    for r, row in enumerate(rows):
        start = len(row.prompt_ids)
        input_ids[r, :start] = torch.tensor(row.prompt_ids)
        position_ids[r, :start] = torch.arange(start)
        segments[r, :start] = PROMPT
        at = start
        for k, (i, token_ids) in enumerate(row.answers):
            n = len(token_ids)
            input_ids[r, at : at + n] = torch.tensor(token_ids)
            position_ids[r, at : at + n] = start + torch.arange(n)
            segments[r, at : at + n] = PROMPT + 1 + k
            index = r * length + at - 1 + torch.arange(n)
            index[0] = r * length + start - 1
            hidden_index.append(index)
            labels.append(torch.tensor(token_ids))
            answer.append(torch.full((n,), i))
            at += n
    return _Batch(
        *(tensor.to(device) for tensor in (input_ids, position_ids, segments)),
        *(torch.cat(parts).to(device) for parts in (hidden_index, labels, answer)),
    )


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
    weight = torch.cat([s * head.weight for s, head in zip(scales, heads, strict=True)], dim=1)
    bias = None
    for s, head in zip(scales, heads, strict=True):
        if head.bias is not None:
            bias = s * head.bias if bias is None else bias + s * head.bias
    return Head(weight, bias)
