"""How prompts and their responses lie in the tensors that a model reads, and batches of rows.

Shapes: R rows (prompts), S responses, P pairs of responses, T tokens of a packed batch, L tokens of
the longest prompt with one response, N response tokens, without those in a response's gaps.

- *Plain*: a row for each prompt with one response, padded on the right.
- *Packed*: one row of all tokens, each prompt followed by all of its responses: nothing is padded,
  and a prompt that several responses share is computed once. Only attention, which must not mix
  them, takes the tokens apart into plain rows and back (`attention.py`).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor

#: Rows whose lengths are looked at together.
_AT_ONCE = 4096

Ids: TypeAlias = Sequence[int]
Batch: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """A batch as the model reads it, and where each response's predictions are made.

    `inputs` holds `input_ids` and `position_ids` ([S, L] plain, [1, T] packed), and plain
    `attention_mask` [S, L], or packed

    - `unpack` [S, L]: which of the T tokens stands there in plain rows, -1 for padding;
    - `repack` [T]: where in the flattened plain rows each token's own place is;
    - `again` [2, D]: tokens with a further place, and that place. A prompt's own place is with its
      first response.

    `hidden_index[r][k]`: where in the flattened hidden states those lie that predict the tokens of
    prompt r's response k.
    """

    inputs: dict[str, Tensor]
    hidden_index: list[list[Tensor]]


def plain(rows: Sequence[tuple[Ids, Sequence[Ids]]], pad_token_id: int) -> Layout:
    """A row for each prompt with one response."""
    sides = [(prompt, response) for prompt, responses in rows for response in responses]
    length = max(len(prompt) + len(response) for prompt, response in sides)
    input_ids = torch.full((len(sides), length), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    index = []
    for i, (prompt, response) in enumerate(sides):
        n = len(prompt) + len(response)
        input_ids[i, :n] = torch.tensor([*prompt, *response])
        mask[i, :n] = 1
        index.append(torch.arange(len(response)) + (i * length + len(prompt) - 1))
    positions = torch.arange(length) * mask
    inputs = {"input_ids": input_ids, "position_ids": positions, "attention_mask": mask}
    of = iter(index)
    return Layout(inputs, [[next(of) for _ in responses] for _, responses in rows])


def packed(rows: Sequence[tuple[Ids, Sequence[Ids]]]) -> Layout:
    """One row of all tokens, each prompt once."""
    length = max(len(prompt) + len(response) for prompt, own in rows for response in own)
    tokens: list[int] = []
    parts: dict[str, list[Tensor]] = {"position_ids": [], "unpack": [], "repack": [], "again": []}
    index: list[list[Tensor]] = []
    for prompt, responses in rows:
        start, p = len(tokens), len(prompt)
        of_prompt = torch.arange(p)
        tokens += prompt
        parts["position_ids"].append(of_prompt)
        parts["repack"].append(of_prompt + len(parts["unpack"]) * length)
        index.append([])
        for k, response in enumerate(responses):
            at, first = len(tokens), len(parts["unpack"]) * length
            of_response = torch.arange(len(response))
            tokens += response
            parts["position_ids"].append(of_response + p)
            parts["repack"].append(of_response + first + p)
            row = torch.full((length,), -1)
            row[:p] = of_prompt + start
            row[p : p + len(response)] = of_response + at
            parts["unpack"].append(row)
            if k:
                parts["again"].append(torch.stack((of_prompt + start, of_prompt + first)))
            before = of_response + (at - 1)
            before[:1] = start + p - 1
            index[-1].append(before)
    none_again = [torch.empty(2, 0, dtype=torch.long)]
    inputs = {
        "input_ids": torch.tensor([tokens]),
        "position_ids": torch.cat(parts["position_ids"]).unsqueeze(0),
        "unpack": torch.stack(parts["unpack"]),
        "repack": torch.cat(parts["repack"]),
        "again": torch.cat(parts["again"] or none_again, dim=1),
    }
    return Layout(inputs, index)


def tokenized_answers(row: Mapping[str, Any]) -> list[tuple[Ids, Ids]]:
    """A tokenized row's responses, each with its gaps."""
    if "completions_ids" in row:
        ids = row["completions_ids"]
        return list(zip(ids, row.get("completions_gaps", [()] * len(ids)), strict=True))
    sides = [side for side in ("chosen", "rejected", "completion") if f"{side}_ids" in row]
    return [(row[f"{side}_ids"], row.get(f"{side}_gaps", ())) for side in sides]


def longest_row(rows: Dataset) -> int:
    """Tokens of the longest prompt with one of its responses, of tokenized rows."""
    sides = [f"{side}_ids" for side in ("chosen", "rejected", "completion", "completions")]
    names = [name for name in sides if name in rows.column_names]
    longest = 0
    for table in rows.select_columns(["prompt_ids", *names]).with_format("arrow").iter(_AT_ONCE):
        prompts = pc.list_value_length(table["prompt_ids"]).to_numpy()
        for name in names:
            answers = table[name].combine_chunks()
            if name == "completions_ids":
                prompts_of = prompts[pc.list_parent_indices(answers).to_numpy()]
                answers = answers.flatten()
            else:
                prompts_of = prompts
            lengths = prompts_of + pc.list_value_length(answers).to_numpy()
            longest = max(longest, int(lengths.max(initial=0)))
    return longest


@dataclass(frozen=True)
class RowCollator:
    """Collates tokenized pairs or groups (`tokenize_rows`): plain rows, or packed ones.

    Calling it returns the layout's inputs and

    - `hidden_index` [N]: where in the flattened hidden states the state lies that predicts each
      response token;
    - `target_ids` [N]: the response tokens, response by response;
    - `sequence` [N]: their response in [0, S), row by row, a pair's chosen one first;
    - `row` [S]: each response's row in [0, R);
    - `pairs` [2, P]: the chosen and the rejected response of each pair, row by row;
    - `gap` [P]: the pairs' score gaps, NaN where there are no scores;
    - `index` [R]: the rows' own `index`, if they have one.

    A row of a pair has two responses and is one pair; a row of a group has k and is every pair of
    different scores, with `ties` also of equal ones, which have no order, but a gap of 0.
    """

    pad_token_id: int
    shared_prompt: bool = False
    ties: bool = True

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate a list of rows; see the class."""
        answers = [tokenized_answers(row) for row in rows]
        prompts = [
            (row["prompt_ids"], [ids for ids, _ in own])
            for row, own in zip(rows, answers, strict=True)
        ]
        layout = packed(prompts) if self.shared_prompt else plain(prompts, self.pad_token_id)
        flat = [answer for own in answers for answer in own]
        masks = [_outside(len(ids), gaps) for ids, gaps in flat]
        places = [place for of_row in layout.hidden_index for place in of_row]
        targets = [torch.as_tensor(ids, dtype=torch.long) for ids, _ in flat]
        lengths = torch.stack([mask.sum() for mask in masks])
        counts = torch.tensor([len(own) for own in answers])
        first = (counts.cumsum(0) - counts).tolist()
        pairs = [
            (at + better, at + worse, gap)
            for at, row in zip(first, rows, strict=True)
            for better, worse, gap in _pairs(row, self.ties)
        ]
        batch = {
            **layout.inputs,
            "gap": torch.tensor([gap for _, _, gap in pairs], dtype=torch.float32),
            "pairs": torch.tensor([pair[:2] for pair in pairs]).reshape(-1, 2).T,
            "row": torch.repeat_interleave(torch.arange(len(rows)), counts),
            "hidden_index": torch.cat([at[mask] for at, mask in zip(places, masks, strict=True)]),
            "target_ids": torch.cat([ids[mask] for ids, mask in zip(targets, masks, strict=True)]),
            "sequence": torch.repeat_interleave(torch.arange(len(flat)), lengths),
        }
        if "index" in rows[0]:
            batch["index"] = torch.tensor([row["index"] for row in rows])
        return batch


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
    scores = row.get("scores", ())  # demonstrations have none
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    pairs = [(i, j, scores[i] - scores[j]) for i, j in itertools.combinations(order, 2)]
    return [pair for pair in pairs if ties or pair[2] > 0]
