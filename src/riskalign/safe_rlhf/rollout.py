"""One iteration's answers: sampled, scored, and with what PPO must know of the policy then.

Shapes: S answers, T tokens of the longest.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from riskalign.errors import InputError
from riskalign.models.sampling import sample
from riskalign.safe_rlhf.logps import token_logps
from riskalign.safe_rlhf.settings import PPOSettings
from riskalign.scorers.batch import Sample, collate, padded, token_mask
from riskalign.scorers.machine import Accelerator
from riskalign.scorers.scalar import ScalarModel
from riskalign.training.reference import Reference
from riskalign.worlds import Prompt

#: What scores an answer: a program of prompt and answer text, or a trained model.
Scorer: TypeAlias = Callable[[Prompt, str], float] | ScalarModel


@dataclass(frozen=True)
class Models:
    """The four models of the loop, on the accelerator's device, and how they read a batch."""

    policy: nn.Module
    reference: Reference
    reward_critic: ScalarModel
    cost_critic: ScalarModel
    pad_token_id: int
    shared_prompt: bool


@dataclass(frozen=True)
class Task:
    """What is answered and how it is scored; `prompt_ids` are the prompts' token ids."""

    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[Prompt]
    prompt_ids: Sequence[Sequence[int]]
    reward: Scorer
    cost: Scorer


@dataclass(frozen=True)
class Rollout:
    """S answers; tensors [S, T] are 0 where `mask` is False, `reward` and `cost` are [S].

    `logp`, `entropy` and the values are those of the policy and critics that the iteration started
    with. An answer that was cut at the length limit has no end token and `finished` False.
    """

    samples: list[Sample]
    finished: list[bool]
    mask: Tensor
    logp: Tensor
    ref_logp: Tensor
    entropy: Tensor
    reward_values: Tensor
    cost_values: Tensor
    reward: Tensor
    cost: Tensor


def roll_out(
    models: Models,
    task: Task,
    chosen: Sequence[int],
    settings: PPOSettings,
    accelerator: Accelerator,
    seed: int,
) -> Rollout:
    """Answer the prompts numbered `chosen`, score the answers and read them once.

    Raises:
        InputError: a reward or cost is not finite.
    """
    policy: Any = models.policy
    # An adapter's layers are in the model itself, which `sample` knows how to read prompts once.
    inner = policy.get_base_model() if isinstance(policy, PeftModel) else policy
    prompts = [task.prompts[i] for i in chosen]
    # Not under autocast: the cache that answers share takes one precision only.
    answers = sample(
        inner,
        task.tokenizer,
        prompts,
        answers_per_prompt=settings.answers_per_prompt,
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.sampling_batch_size,
        seed=seed,
    )
    asked = [i for i, own in zip(chosen, answers, strict=True) for _ in own]
    given = [answer for own in answers for answer in own]
    samples = [
        Sample(task.prompt_ids[i], answer.token_ids) for i, answer in zip(asked, given, strict=True)
    ]
    texts = [(task.prompts[i], answer.text) for i, answer in zip(asked, given, strict=True)]
    size = settings.per_device_train_batch_size
    reward, cost = (
        score_answers(scorer, name, texts, samples, models, size, accelerator)
        for scorer, name in ((task.reward, "reward"), (task.cost, "cost"))
    )
    mask = token_mask(samples).to(accelerator.device)
    logp, ref_logp, entropy, reward_values, cost_values = (
        padded(flat, mask) for flat in _read(models, samples, size, accelerator)
    )
    return Rollout(
        samples=samples,
        finished=[answer.finished for answer in given],
        mask=mask,
        logp=logp,
        ref_logp=ref_logp,
        entropy=entropy,
        reward_values=reward_values,
        cost_values=cost_values,
        reward=reward,
        cost=cost,
    )


@torch.no_grad()
def score_answers(
    scorer: Scorer,
    name: str,
    texts: Sequence[tuple[Prompt, str]],
    samples: Sequence[Sample],
    models: Models,
    size: int,
    accelerator: Accelerator,
) -> Tensor:
    """Scores [S] of answers, given as prompt and text and as token ids.

    A program reads the text, a model the tokens; it takes the answer's last token for its end
    whether or not that is an end token.

    Raises:
        InputError: a score is not finite.
    """
    if isinstance(scorer, ScalarModel):
        parts = []
        for at in range(0, len(samples), size):
            own = samples[at : at + size]
            batch = collate(own, models.pad_token_id, models.shared_prompt, accelerator.device)
            with accelerator.autocast():
                parts.append(scorer.scores(batch).float())
        scores = torch.cat(parts).tolist()
    else:
        scores = [float(scorer(prompt, text)) for prompt, text in texts]
    for (prompt, text), score in zip(texts, scores, strict=True):
        if not math.isfinite(score):
            raise InputError(
                f"{name}: is {score} for prompt {prompt.id!r} and answer {text[:60]!r}. Give a "
                "scorer that returns a finite number for every answer."
            )
    return torch.tensor(scores, device=accelerator.device)


@torch.no_grad()
def _read(
    models: Models, samples: Sequence[Sample], size: int, accelerator: Accelerator
) -> tuple[Tensor, ...]:
    """Of all answer tokens [N]: logp, reference logp, entropy, reward values, cost values."""
    parts = []
    for at in range(0, len(samples), size):
        own = samples[at : at + size]
        batch = collate(own, models.pad_token_id, models.shared_prompt, accelerator.device)
        with accelerator.autocast():
            logp, entropy = token_logps(models.policy, batch, entropy=True)
            with models.reference.active(models.policy) as reference:
                ref_logp = token_logps(reference, batch).logp
            values = (models.reward_critic.values(batch), models.cost_critic.values(batch))
        parts.append((logp, ref_logp, entropy, *values))
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))
