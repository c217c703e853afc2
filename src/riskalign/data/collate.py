"""From tokenized pairs to one batch of tensors.

Shapes: B pairs, N response tokens (chosen ones of all pairs first, then rejected ones).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from riskalign.data.layout import packed, plain


@dataclass(frozen=True)
class PairCollator:
    """Collates `TokenizedPair`s: plain rows, or with `shared_prompt` packed ones (`layout.py`).

    Calling it returns the layout's inputs and

    - `gap` [B]: score gaps, NaN where there are no scores;
    - `hidden_index` [N]: where in the flattened hidden states the state lies that predicts each
      response token;
    - `target_ids` [N]: the response tokens;
    - `sequence` [N]: their sequence, in [0, B) for chosen and [B, 2B) for rejected;
    - `index` [B]: the pairs' own `index`, if they have one.
    """

    pad_token_id: int
    shared_prompt: bool = False

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Collate a list of pairs; see the class."""
        rows = [(pair["prompt_ids"], (pair["chosen_ids"], pair["rejected_ids"])) for pair in pairs]
        layout = packed(rows) if self.shared_prompt else plain(rows, self.pad_token_id)
        responses = [responses[side] for side in (0, 1) for _, responses in rows]
        index = [places[side] for side in (0, 1) for places in layout.hidden_index]
        lengths = torch.tensor([len(response) for response in responses])
        batch = {
            **layout.inputs,
            "gap": torch.tensor([pair["gap"] for pair in pairs], dtype=torch.float32),
            "hidden_index": torch.cat(index),
            "target_ids": torch.cat(
                [torch.as_tensor(response, dtype=torch.long) for response in responses]
            ),
            "sequence": torch.repeat_interleave(torch.arange(2 * len(pairs)), lengths),
        }
        if "index" in pairs[0]:
            batch["index"] = torch.tensor([pair["index"] for pair in pairs])
        return batch
