"""From tokenized pairs to one batch of tensors.

Shapes: B pairs, R rows, L tokens of the longest row, N response tokens (chosen ones of all pairs
first, then rejected ones).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PAD, PROMPT, CHOSEN, REJECTED = 0, 1, 2, 3


@dataclass(frozen=True)
class PairCollator:
    """Collates `TokenizedPair`s.

    Plain: R = 2B rows, `prompt + chosen` of all pairs and then `prompt + rejected`.
    With `shared_prompt`: R = B rows, `prompt + chosen + rejected`, the rejected response's
    positions starting again after the prompt; a model must then be given
    `shared_prompt_mask`, so that the rejected response does not see the chosen one.

    Calling it returns

    - `gap` [B]: score gaps, NaN where there are no scores;
    - `input_ids`, `position_ids`, `segments` [R, L]: right-padded rows, `segments` telling
      padding (0), prompt (1), chosen (2) and rejected (3) apart;
    - `hidden_index` [N]: where in the flattened [R * L] hidden states the state lies that
      predicts each response token;
    - `target_ids` [N]: the response tokens;
    - `sequence` [N]: their sequence, in [0, B) for chosen and [B, 2B) for rejected;
    - `index` [B]: the pairs' own `index`, if they have one.
    """

    pad_token_id: int
    shared_prompt: bool = False

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Collate a list of pairs; see the class."""
        n_pairs = len(pairs)
        sides = [(pair["prompt_ids"], pair["chosen_ids"]) for pair in pairs]
        sides += [(pair["prompt_ids"], pair["rejected_ids"]) for pair in pairs]
        row_of = list(range(2 * n_pairs))
        start_of = [len(prompt) for prompt, _ in sides]
        if self.shared_prompt:
            row_of = [side % n_pairs for side in row_of]
            for side in range(n_pairs, 2 * n_pairs):
                start_of[side] += len(sides[side - n_pairs][1])
        length = max(
            start + len(response) for start, (_, response) in zip(start_of, sides, strict=True)
        )
        shape = (max(row_of) + 1, length)
        input_ids = torch.full(shape, self.pad_token_id, dtype=torch.long)
        position_ids = torch.zeros(shape, dtype=torch.long)
        segments = torch.full(shape, PAD, dtype=torch.long)
        hidden_index, target_ids, sequence = [], [], []
        for side, (prompt, response) in enumerate(sides):
            row, start, n = row_of[side], start_of[side], len(response)
            response_ids = torch.as_tensor(response, dtype=torch.long)
            input_ids[row, : len(prompt)] = torch.as_tensor(prompt, dtype=torch.long)
            input_ids[row, start : start + n] = response_ids
            position_ids[row, : len(prompt)] = torch.arange(len(prompt))
            position_ids[row, start : start + n] = torch.arange(n) + len(prompt)
            segments[row, : len(prompt)] = PROMPT
            segments[row, start : start + n] = CHOSEN if side < n_pairs else REJECTED
            index = torch.arange(row * length + start - 1, row * length + start - 1 + n)
            index[0] = row * length + len(prompt) - 1
            hidden_index.append(index)
            target_ids.append(response_ids)
            sequence.append(torch.full((n,), side, dtype=torch.long))
        batch = {
            "gap": torch.tensor([pair["gap"] for pair in pairs], dtype=torch.float32),
            "input_ids": input_ids,
            "position_ids": position_ids,
            "segments": segments,
            "hidden_index": torch.cat(hidden_index),
            "target_ids": torch.cat(target_ids),
            "sequence": torch.cat(sequence),
        }
        if "index" in pairs[0]:
            batch["index"] = torch.tensor([pair["index"] for pair in pairs])
        return batch


def shared_prompt_mask(segments: Tensor) -> Tensor:
    """Which token sees which in rows of `prompt + chosen + rejected`.

    Args:
        segments: [B, L], see `PairCollator`.

    Returns:
        Boolean [B, 1, L, L], true where the query (third axis) sees the key (fourth): earlier
        tokens of the prompt and of its own response, and always itself.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    seen = causal & ((key == PROMPT) | (key == query)) & (key != PAD)
    # Padding would see nothing at all, and attention over nothing is NaN.
    seen = seen | torch.eye(length, dtype=torch.bool, device=segments.device)
    return seen[:, None]
