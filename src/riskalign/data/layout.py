"""How prompts and their responses lie in the tensors that a model reads.

Shapes: R prompts, S responses, T tokens of a packed batch, L tokens of the longest prompt with one
response.

- *Plain*: a row for each prompt with one response, padded on the right.
- *Packed*: one row of all tokens, each prompt followed by all of its responses: nothing is padded,
  and a prompt that several responses share is computed once. Only attention, which must not mix
  them, takes the tokens apart into plain rows and back (`attention.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Ids = Sequence[int]
Row = tuple[Ids, Sequence[Ids]]


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


def plain(rows: Sequence[Row], pad_token_id: int) -> Layout:
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


def packed(rows: Sequence[Row]) -> Layout:
    """One row of all tokens, each prompt once."""
    length = max(len(prompt) + len(response) for prompt, own in rows for response in own)
    tokens: list[int] = []
    positions: list[Tensor] = []
    unpack: list[Tensor] = []
    repack: list[Tensor] = []
    again: list[Tensor] = []
    index: list[list[Tensor]] = []
    for prompt, responses in rows:
        start, p = len(tokens), len(prompt)
        tokens += prompt
        positions.append(torch.arange(p))
        repack.append(torch.arange(p) + len(unpack) * length)
        index.append([])
        for k, response in enumerate(responses):
            at, n, first = len(tokens), len(response), len(unpack) * length
            tokens += response
            positions.append(torch.arange(n) + p)
            repack.append(torch.arange(n) + first + p)
            row = torch.full((length,), -1)
            row[:p] = torch.arange(p) + start
            row[p : p + n] = torch.arange(n) + at
            unpack.append(row)
            if k:
                again.append(torch.stack((torch.arange(p) + start, torch.arange(p) + first)))
            before = torch.arange(n) + (at - 1)
            before[:1] = start + p - 1
            index[-1].append(before)
    inputs = {
        "input_ids": torch.tensor([tokens]),
        "position_ids": torch.cat(positions).unsqueeze(0),
        "unpack": torch.stack(unpack),
        "repack": torch.cat(repack),
        "again": torch.cat(again, dim=1) if again else torch.empty(2, 0, dtype=torch.long),
    }
    return Layout(inputs, index)


def is_packed(batch: Mapping[str, Tensor]) -> bool:
    """Whether a batch's `inputs` are packed."""
    return "unpack" in batch
