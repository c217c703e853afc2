"""The draw of each token, by a stream of random numbers that belongs to the answer alone."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from riskalign.errors import InputError


def answer_key(seed: int, prompt_id: str, k: int) -> int:
    """128 bits for the k-th answer to a prompt: what its draws depend on, and nothing else."""
    name = json.dumps([seed, prompt_id, k]).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "big")


def levels(keys: Sequence[int], tokens: int) -> Tensor:
    """Uniform numbers [answers, tokens] in [0, 1), float64 on the CPU, one for a token's draw.

    An answer's are those of its key (as `answer_key` makes it), at any length, in any company and
    on any machine: Philox, whose raw stream NumPy keeps from version to version.
    """
    raw = [np.random.Philox(key=key).random_raw(tokens) for key in keys]
    return torch.from_numpy((np.stack(raw) >> np.uint64(11)) * 2.0**-53)


class Draw(LogitsProcessor):
    """Leaves one token of each row, drawn from the row's softmax, for `generate` to take greedily.

    `generate`'s own sampling draws a random number for every entry of the vocabulary; on a CPU
    that was a quarter of the time (docs/log.md). Here it is one for each row, which is compared
    with the running total of the probabilities, in float64: `levels` [B, tokens to come], after
    `start` tokens of prompt. Without levels the likeliest token is wanted, and scores stay as they
    are. `prompts` names the rows in errors.
    """

    def __init__(
        self, levels: Tensor | None, *, start: int = 0, prompts: Sequence[str] = ()
    ) -> None:
        self.levels, self.start, self.prompts = levels, start, prompts

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Tensor:
        """Scores [B, V] in, scores [B, V] out: 0 at the drawn token, -inf elsewhere.

        Raises `InputError` for a row that is no distribution.
        """
        if self.levels is None:
            self._refuse(scores.amax(-1))
            return scores
        reached = scores.softmax(-1, dtype=torch.float32).cumsum(-1, dtype=torch.float64)
        # One NaN or +inf, or -inf throughout, makes the total NaN, which no level would exceed.
        self._refuse(reached[:, -1])
        at = input_ids.shape[1] - self.start
        level = self.levels[:, at : at + 1].to(scores.device) * reached[:, -1:]
        # The first token whose total exceeds the level; one of probability 0 never does.
        token = torch.searchsorted(reached, level, right=True).clamp_(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)

    def _refuse(self, row_totals: Tensor) -> None:
        bad = row_totals.isfinite().logical_not().nonzero().flatten().tolist()
        if bad:
            which = f"prompt {self.prompts[bad[0]]!r}" if self.prompts else f"row {bad[0]}"
            raise InputError(
                f"{which}: the logits of its next token are NaN or infinite, so none can be drawn. "
                "The model is broken, or its precision too small for its weights: fetch or train "
                "it again, or sample in float32 (bf16: false)."
            )
