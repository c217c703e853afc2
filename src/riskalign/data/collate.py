"""From tokenized rows to one batch of tensors.

Shapes: R rows (prompts), S responses, P pairs of responses, N response tokens, without those that
lie in a response's gaps. A row of a pair has
two responses and is one pair; a row of a group has k and is every pair of different scores.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from riskalign.data.layout import Ids, packed, plain


@dataclass(frozen=True)
class RowCollator:
    """Collates `TokenizedPair`s or `TokenizedGroup`s: plain rows, or packed ones (`layout.py`).

    Calling it returns the layout's inputs and

    - `hidden_index` [N]: where in the flattened hidden states the state lies that predicts each
      response token;
    - `target_ids` [N]: the response tokens, response by response;
    - `sequence` [N]: their response in [0, S), row by row, a pair's chosen one first;
    - `row` [S]: each response's row in [0, R);
    - `pairs` [2, P]: the chosen and the rejected response of each pair, row by row;
    - `gap` [P]: the pairs' score gaps, NaN where there are no scores;
    - `index` [R]: the rows' own `index`, if they have one.

    Of a group's pairs those of equal scores are left out unless `ties`: they have no order, but a
    gap of 0.
    """

    pad_token_id: int
    shared_prompt: bool = False
    ties: bool = True

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Collate a list of rows; see the class."""
        responses = [_responses(row) for row in rows]
        prompts = [(row["prompt_ids"], own) for row, own in zip(rows, responses, strict=True)]
        layout = packed(prompts) if self.shared_prompt else plain(prompts, self.pad_token_id)
        flat = [response for own in responses for response in own]
        written = [
            _outside(len(ids), gaps)
            for row, ids_of in zip(rows, responses, strict=True)
            for ids, gaps in zip(ids_of, _gaps(row, len(ids_of)), strict=True)
        ]
        places = [place for of_row in layout.hidden_index for place in of_row]
        lengths = torch.stack([mask.sum() for mask in written])
        counts = torch.tensor([len(own) for own in responses])
        first = (counts.cumsum(0) - counts).tolist()
        pairs = [
            (at + better, at + worse, gap)
            for at, row in zip(first, rows, strict=True)
            for better, worse, gap in _pairs(row, self.ties)
        ]
        batch = {
            **layout.inputs,
            "gap": torch.tensor([gap for _, _, gap in pairs], dtype=torch.float32),
            "pairs": torch.tensor([pair[:2] for pair in pairs]).T,
            "row": torch.repeat_interleave(torch.arange(len(rows)), counts),
            "hidden_index": torch.cat([at[mask] for at, mask in zip(places, written, strict=True)]),
            "target_ids": torch.cat(
                [
                    torch.as_tensor(ids, dtype=torch.long)[mask]
                    for ids, mask in zip(flat, written, strict=True)
                ]
            ),
            "sequence": torch.repeat_interleave(torch.arange(len(flat)), lengths),
        }
        if "index" in rows[0]:
            batch["index"] = torch.tensor([row["index"] for row in rows])
        return batch


def _responses(row: Mapping[str, Any]) -> Sequence[Ids]:
    if "completions_ids" in row:
        completions: Sequence[Ids] = row["completions_ids"]
        return completions
    return (row["chosen_ids"], row["rejected_ids"])


def _gaps(row: Mapping[str, Any], n: int) -> Sequence[Ids]:
    if "completions_ids" in row:
        completions: Sequence[Ids] = row.get("completions_gaps", [()] * n)
        return completions
    return (row.get("chosen_gaps", ()), row.get("rejected_gaps", ()))


def _outside(n: int, gaps: Ids) -> Tensor:
    """Which of a response's n tokens [n] are in none of the gaps."""
    mask = torch.ones(n, dtype=torch.bool)
    for first, last in zip(gaps[::2], gaps[1::2], strict=True):
        mask[first:last] = False
    return mask


def _pairs(row: Mapping[str, Any], ties: bool) -> list[tuple[int, int, float]]:
    """Chosen, rejected and gap of each pair of a row's responses."""
    if "completions_ids" not in row:
        return [(0, 1, row["gap"])]
    scores = row["scores"]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    found = [(i, j, scores[i] - scores[j]) for i, j in itertools.combinations(order, 2)]
    return [pair for pair in found if ties or pair[2] > 0]
