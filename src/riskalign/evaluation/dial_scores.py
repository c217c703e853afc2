"""Log probabilities of given answers at several settings of the dial, in one pass of both models.

Shapes: n answers, J settings, N response tokens of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from riskalign.data import response_hidden
from riskalign.errors import InputError
from riskalign.evaluation.score import _batches, _collate, _flatten, _rows
from riskalign.models.dial import combine_logits
from riskalign.models.sampling import Answer
from riskalign.tokens import backbone_of, head_of
from riskalign.worlds import Prompt

#: Tokens whose logits [tokens, V] are held at once.
_CHUNK = 256


@torch.inference_mode()
def dial_log_probs(
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Answer]],
    *,
    model_1: nn.Module,
    model_2: nn.Module,
    settings: Sequence[float],
    tokenizer: PreTrainedTokenizerBase,
    shared_prompt: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """`log pi_w(answer | prompt)` [n, J] at each setting w, natural log, float64, prompt by prompt.

    The sum over an answer's own tokens, its end-of-sequence token included where it was reached: of
    an answer that was cut off it is the probability of what there is of it. Each token's
    distribution is the sampler's (`riskalign.models.dial.combine_logits`). Both models are put into
    eval mode; the other arguments are those of `score_answers`.

    Raises `InputError` for answers of another prompt, or one that a setting cannot give.
    """
    flat = _flatten(prompts, answers)
    total = torch.zeros(len(flat), len(settings), dtype=torch.float64)
    models = (model_1.eval(), model_2.eval())
    heads = [head_of(model) for model in models]
    done = 0
    for chosen in _batches(_rows(prompts, answers, tokenizer, shared_prompt)):
        batch, labels, index = _collate(chosen, shared_prompt, heads[0].weight.device)
        hidden = [response_hidden(backbone_of(model), batch) for model in models]
        for at in range(0, len(labels), _CHUNK):
            part = slice(at, at + _CHUNK)
            one, two = (head.logits(h[part]) for head, h in zip(heads, hidden, strict=True))
            own = labels[part, None]
            found = [combine_logits(one, two, w).gather(-1, own).squeeze(-1) for w in settings]
            total.index_add_(0, index[part], torch.stack(found, dim=-1).double().cpu())
        done += sum(len(row.answers) for row in chosen)
        if progress:
            progress(done, len(flat))
    bad = (~total.isfinite()).any(dim=-1).nonzero().flatten().tolist()
    if bad:
        raise InputError(
            f"prompt {flat[bad[0]][0].id!r}: an answer's log probability is NaN or infinite at a "
            "setting of the dial. A model is broken, or its precision too small for its weights: "
            "fetch or train it again, or measure in float32 (bf16: false)."
        )
    return total
