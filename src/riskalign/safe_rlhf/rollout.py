"""One iteration's answers: sampled, scored, and with what PPO must know of the policy then.

Shapes: S answers, T tokens of the longest, N answer tokens, C tokens of one chunk, H hidden, V
vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedTokenizerBase

from riskalign.data import Batch, response_hidden
from riskalign.errors import InputError
from riskalign.models.sampling import sample
from riskalign.safe_rlhf.settings import PPOSettings
from riskalign.scorers.scalar import Sample, ScalarModel, collate, padded, token_mask
from riskalign.scorers.training_run import Accelerator
from riskalign.tokens import Head, backbone_of, head_of
from riskalign.training.reference import Reference
from riskalign.worlds import Prompt

#: What scores an answer: a program of prompt and answer text, or a trained model.
Scorer: TypeAlias = Callable[[Prompt, str], float] | ScalarModel

# Logits held at a time; a chunk's are computed again in the backward pass.
_CHUNK_ELEMENTS = 16 << 20


@dataclass(frozen=True)
class Models:
    """The four models of the loop, on the accelerator's device, and how they read a batch.

    `critics` are those of ``reward`` and ``cost``.
    """

    policy: nn.Module
    reference: Reference
    critics: Mapping[str, ScalarModel]
    pad_token_id: int
    shared_prompt: bool
    accelerator: Accelerator

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """A batch that all of them read."""
        return collate(samples, self.pad_token_id, self.shared_prompt, self.accelerator.device)

    def trained(self) -> dict[str, nn.Module]:
        """Those that learn, by name."""
        return {"policy": self.policy, **{f"{of}_critic": c for of, c in self.critics.items()}}


@dataclass(frozen=True)
class Task:
    """What is answered, how it is scored and how it is learnt from.

    `prompt_ids` are the prompts' token ids, `scorers` those of ``reward`` and ``cost``, `ptx` the
    answers that the policy is to keep likely.
    """

    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[Prompt]
    prompt_ids: Sequence[Sequence[int]]
    scorers: Mapping[str, Scorer]
    ptx: Sequence[Sample]
    settings: PPOSettings
    seed: int


@dataclass(frozen=True)
class Rollout:
    """S answers; tensors [S, T] are 0 where `mask` is False.

    `logp`, `entropy` and `values` (of ``reward`` and ``cost``) are those of the policy and critics
    that the iteration started with; `scores` [S] are the answers' reward and cost. An answer that
    was cut at the length limit has no end token and `finished` False.
    """

    samples: list[Sample]
    finished: list[bool]
    mask: Tensor
    logp: Tensor
    ref_logp: Tensor
    entropy: Tensor
    values: Mapping[str, Tensor]
    scores: Mapping[str, Tensor]


def roll_out(models: Models, task: Task, chosen: Sequence[int], seed: int) -> Rollout:
    """Answer the prompts numbered `chosen`, score the answers and read them once.

    Raises `InputError`: a reward or cost is not finite.
    """
    policy: Any = models.policy
    settings, size = task.settings, task.settings.per_device_train_batch_size
    # Not under autocast: the cache that answers share takes one precision only.
    answers = sample(
        # An adapter's layers are in the model itself, which `sample` can have read prompts once.
        policy.get_base_model() if isinstance(policy, PeftModel) else policy,
        task.tokenizer,
        [task.prompts[i] for i in chosen],
        answers_per_prompt=settings.answers_per_prompt,
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.sampling_batch_size,
        seed=seed,
    )
    given = [(i, answer) for i, group in zip(chosen, answers, strict=True) for answer in group]
    samples = [Sample(task.prompt_ids[i], answer.token_ids) for i, answer in given]
    texts = [(task.prompts[i], answer.text) for i, answer in given]
    scores = {
        name: score_answers(scorer, name, texts, samples, models, size)
        for name, scorer in task.scorers.items()
    }
    mask = token_mask(samples).to(models.accelerator.device)
    logp, ref_logp, entropy, *values = (padded(flat, mask) for flat in _read(models, samples, size))
    finished = [answer.finished for _, answer in given]
    of = dict(zip(models.critics, values, strict=True))
    return Rollout(samples, finished, mask, logp, ref_logp, entropy, of, scores)


@torch.no_grad()
def score_answers(
    scorer: Scorer,
    name: str,
    texts: Sequence[tuple[Prompt, str]],
    samples: Sequence[Sample],
    models: Models,
    size: int,
) -> Tensor:
    """Scores [S] of answers, given as prompt and text and as token ids.

    A program reads the text, a model the tokens; it takes the answer's last token for its end
    whether or not that is an end token.

    Raises `InputError`: a score is not finite.
    """
    if isinstance(scorer, ScalarModel):
        scores = []
        for at in range(0, len(samples), size):
            batch = models.batch(samples[at : at + size])
            with models.accelerator.autocast():
                scores += scorer.scores(batch).float().tolist()
    else:
        scores = [float(scorer(prompt, text)) for prompt, text in texts]
    for (prompt, text), score in zip(texts, scores, strict=True):
        if not math.isfinite(score):
            raise InputError(
                f"{name}: is {score} for prompt {prompt.id!r} and answer {text[:60]!r}. Give a "
                "scorer that returns a finite number for every answer."
            )
    return torch.tensor(scores, device=models.accelerator.device)


@torch.no_grad()
def _read(models: Models, samples: Sequence[Sample], size: int) -> tuple[Tensor, ...]:
    """Of all answer tokens [N]: logp, reference logp, entropy, and each critic's values."""
    parts = []
    for at in range(0, len(samples), size):
        batch = models.batch(samples[at : at + size])
        with models.accelerator.autocast():
            logp, entropy = token_logps(models.policy, batch, entropy=True)
            with models.reference.active(models.policy) as reference:
                ref_logp, _ = token_logps(reference, batch)
            values = [critic.values(batch) for critic in models.critics.values()]
        parts.append((logp, ref_logp, entropy, *values))
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def token_logps(model: nn.Module, batch: Batch, *, entropy: bool = False) -> tuple[Tensor, Tensor]:
    """Of a batch's answer tokens [N], in nats: log probability at temperature 1, and entropy.

    The entropy is that of the distribution a token is from; empty where it is not asked for.
    Sampling, reference and training all use this one computation: PPO's ratio of new to old
    probabilities is 1 at the first step only where both come from the same. What `generate` knows
    comes from another one (a cache, other batch shapes). The log probability carries a gradient
    where torch records one, the entropy never does. Only a chunk of the answers' logits is held.
    """
    hidden, head = response_hidden(backbone_of(model), batch), head_of(model)
    size = max(1, _CHUNK_ELEMENTS // head.weight.shape[0])
    parts = []
    for at in range(0, len(hidden), size):
        chunk = hidden[at : at + size], head, batch["target_ids"][at : at + size], entropy
        if torch.is_grad_enabled():
            kept: Any = checkpoint(_chunk, *chunk, use_reentrant=False, preserve_rng_state=False)
            parts.append(kept)
        else:
            parts.append(_chunk(*chunk))
    logps, entropies = zip(*parts, strict=True)
    return torch.cat(logps), torch.cat(entropies)


def _chunk(hidden: Tensor, head: Head, labels: Tensor, entropy: bool) -> tuple[Tensor, Tensor]:
    """`token_logps` of hidden states [C, H] and tokens [C], by logits [C, V]."""
    logits = head.logits(hidden)
    at_least = torch.promote_types(logits.dtype, torch.float32)
    log_probs = logits.to(at_least).log_softmax(-1)
    logp = log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    if not entropy:
        return logp, logp.new_empty(0)
    with torch.no_grad():
        terms = log_probs.exp() * log_probs
        return logp, -terms.nan_to_num(nan=0.0).sum(-1)  # 0 log 0 counts for nothing
