"""Answers to prompts as one batch that a model reads, each prompt once where that is possible.

Shapes: S answers, T tokens of the longest, N answer tokens (those of the first answer first).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from riskalign.data import packed, plain

Batch = dict[str, Tensor]


class Sample(NamedTuple):
    """One answer to one prompt, as token ids; the answer has at least one token."""

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]


def collate(
    samples: Sequence[Sample], pad_token_id: int, shared_prompt: bool, device: torch.device
) -> Batch:
    """Collate S answers; answers to the same prompt share one reading of it.

    With `shared_prompt` every model that reads the batch must satisfy `can_share_prompt`.

    Returns:
        The inputs of a `riskalign.data.Layout` and

        - `hidden_index` [N]: where the state lies that predicts each answer token, which is the
          state before that token;
        - `final_index` [S]: where the state of each answer's own last token lies;
        - `target_ids` [N]: the answer tokens.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(tuple(sample.prompt_ids), []).append(i)
    rows = [(prompt, [samples[i].response_ids for i in own]) for prompt, own in groups.items()]
    layout = packed(rows) if shared_prompt else plain(rows, pad_token_id)
    before: dict[int, Tensor] = {}
    final: dict[int, int] = {}
    at = 0  # in the packed row
    for (prompt, own), places in zip(groups.items(), layout.hidden_index, strict=True):
        at += len(prompt)
        for i, place in zip(own, places, strict=True):
            at += len(samples[i].response_ids)
            before[i], final[i] = place, at - 1 if shared_prompt else int(place[-1]) + 1
    numbers = range(len(samples))
    batch = {
        **layout.inputs,
        "hidden_index": torch.cat([before[i] for i in numbers]),
        "final_index": torch.tensor([final[i] for i in numbers]),
        "target_ids": torch.tensor([token for sample in samples for token in sample.response_ids]),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def token_mask(samples: Sequence[Sample]) -> Tensor:
    """[S, T], True where an answer has a token."""
    lengths = torch.tensor([len(sample.response_ids) for sample in samples])
    return torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)


def padded(flat: Tensor, mask: Tensor) -> Tensor:
    """Values [N] of answer tokens at their places in [S, T], 0 elsewhere."""
    return flat.new_zeros(mask.shape).masked_scatter(mask, flat)
