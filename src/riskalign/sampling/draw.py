"""Drawing the next token by inverting the distribution function."""

import torch
from torch import Tensor
from transformers import LogitsProcessor


class Draw(LogitsProcessor):
    """Leaves one token of each row, drawn from the row's softmax, for `generate` to take greedily.

    `generate`'s own sampling draws a random number for every entry of the vocabulary; on a CPU
    that was a quarter of the time (docs/log.md). Here it is one for each row, which is compared
    with the running total of the probabilities, in float64.
    """

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Tensor:
        """Scores [B, V] in, scores [B, V] out: 0 at the drawn token, -inf elsewhere."""
        reached = scores.softmax(-1, dtype=torch.float32).cumsum(-1, dtype=torch.float64)
        shape = (len(scores), 1)
        level = torch.rand(shape, dtype=torch.float64, device=scores.device) * reached[:, -1:]
        # The first token whose total exceeds the level; one of probability 0 never does.
        token = torch.searchsorted(reached, level, right=True).clamp_(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)
