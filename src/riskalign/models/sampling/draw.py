"""Choosing the next token: by inverting the distribution function, or the likeliest."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from riskalign.errors import InputError


class Draw(LogitsProcessor):
    """Leaves one token of each row, drawn from the row's softmax, for `generate` to take greedily.

    `generate`'s own sampling draws a random number for every entry of the vocabulary; on a CPU
    that was a quarter of the time (docs/log.md). Here it is one for each row, which is compared
    with the running total of the probabilities, in float64. `prompts` names the rows in errors.
    """

    def __init__(self, prompts: Sequence[str] = ()) -> None:
        self.prompts = prompts

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Tensor:
        """Scores [B, V] in, scores [B, V] out: 0 at the drawn token, -inf elsewhere.

        Raises `InputError` for a row that is no distribution.
        """
        reached = scores.softmax(-1, dtype=torch.float32).cumsum(-1, dtype=torch.float64)
        # One NaN or +inf, or -inf throughout, makes the total NaN, which no level would exceed.
        _refuse(reached[:, -1], self.prompts)
        shape = (len(scores), 1)
        level = torch.rand(shape, dtype=torch.float64, device=scores.device) * reached[:, -1:]
        # The first token whose total exceeds the level; one of probability 0 never does.
        token = torch.searchsorted(reached, level, right=True).clamp_(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


class Likeliest(LogitsProcessor):
    """Leaves scores as they are, of which `generate` takes the largest; refuses as `Draw` does."""

    def __init__(self, prompts: Sequence[str] = ()) -> None:
        self.prompts = prompts

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Tensor:
        """Scores [B, V] in and out."""
        _refuse(scores.amax(-1), self.prompts)
        return scores


def _refuse(row_totals: Tensor, prompts: Sequence[str]) -> None:
    bad = row_totals.isfinite().logical_not().nonzero().flatten().tolist()
    if bad:
        which = f"prompt {prompts[bad[0]]!r}" if prompts else f"row {bad[0]}"
        raise InputError(
            f"{which}: the logits of its next token are NaN or infinite, so none can be drawn. The "
            "model is broken, or its precision too small for its weights: fetch or train it again, "
            "or sample in float32 (bf16: false)."
        )
