"""Answers to prompts as one batch that a model reads, each prompt once where that is possible.

Shapes: S answers, T tokens of the longest, N answer tokens (those of the first answer first).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from riskalign.data import can_share_prompt, packed, plain, response_hidden
from riskalign.tokens import backbone_of

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
    width = None if shared_prompt else layout.inputs["input_ids"].shape[1]
    order = [i for own in groups.values() for i in own]
    places = [place for own in layout.hidden_index for place in own]
    place_of = dict(zip(order, places, strict=True))
    final_of = dict(zip(order, _final_places(rows, width), strict=True))
    batch = {
        **layout.inputs,
        "hidden_index": torch.cat([place_of[i] for i in range(len(samples))]),
        "final_index": torch.tensor([final_of[i] for i in range(len(samples))]),
        "target_ids": torch.tensor([token for sample in samples for token in sample.response_ids]),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _final_places(
    rows: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], width: int | None
) -> Iterator[int]:
    """Places of the answers' last tokens in plain rows of `width`, or in one packed row."""
    at = 0
    for prompt, responses in rows:
        at += len(prompt) if width is None else 0
        for response in responses:
            if width is None:
                at += len(response)
                yield at - 1
            else:
                yield at + len(prompt) + len(response) - 1
                at += width


def states_before(backbone: nn.Module, batch: Batch) -> Tensor:
    """Hidden states [N, H] before each answer token: those that predict it."""
    return response_hidden(backbone, batch)


def final_states(backbone: nn.Module, batch: Batch) -> Tensor:
    """Hidden states [S, H] at each answer's last token."""
    return response_hidden(backbone, {**batch, "hidden_index": batch["final_index"]})


def shares_prompts(*models: nn.Module) -> bool:
    """Whether all of these causal models can read a prompt once for several answers."""
    configs: list[Any] = [backbone_of(model).config for model in models]
    return all(can_share_prompt(config) for config in configs)


def token_mask(samples: Sequence[Sample]) -> Tensor:
    """[S, T], True where an answer has a token."""
    lengths = torch.tensor([len(sample.response_ids) for sample in samples])
    return torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)


def padded(flat: Tensor, mask: Tensor) -> Tensor:
    """Values [N] of answer tokens at their places in [S, T], 0 elsewhere."""
    return flat.new_zeros(mask.shape).masked_scatter(mask, flat)
