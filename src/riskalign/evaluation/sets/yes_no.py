"""Which of two words a model would answer with: constrained scoring of a question.

A small model asked to write a judgement writes anything; but how likely it is to begin with Yes
and with No is always defined. A word's probability is that of its tokens after the chat template's
beginning of an answer, with and without a space in front, whichever the tokenizer makes of them.

Shapes: n questions, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from riskalign.data import can_share_prompt, packed, plain, response_hidden
from riskalign.errors import InputError
from riskalign.tokens import backbone_of, head_of

Ids = list[int]


def word_token_ids(tokenizer: PreTrainedTokenizerBase, word: str) -> list[Ids]:
    """The different token sequences of a word as the beginning of an answer."""
    found: list[Ids] = []
    for text in (word, f" {word}"):
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if ids and ids not in found:
            found.append(ids)
    if not found:
        raise InputError(f"the tokenizer makes no token of {word!r}. Use another tokenizer.")
    return found


def yes_no_log_odds(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Ids],
    *,
    words: tuple[str, str] = ("Yes", "No"),
    tokens_at_once: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """log P(first word) - log P(second word) as the beginning of the answer to each question.

    A word's log-probability is the sum over its tokens; over its spellings (with and without a
    space in front) probabilities are added. No spelling of one word may begin another's.

    Args:
        model: a causal language model, whose own precision is used; the logarithms are float32.
        tokenizer: its tokenizer.
        questions: token ids of each question up to where the answer starts.
        words: the two answers.
        tokens_at_once: tokens of one forward pass; it changes no result but for rounding.
        progress: called with (questions done, questions in all) after each batch.

    Returns:
        [n], float64, on the CPU.

    Raises:
        InputError: a spelling of one word begins a spelling of the other, or an empty question.
    """
    spellings = [word_token_ids(tokenizer, word) for word in words]
    answers = [ids for own in spellings for ids in own]
    for i, ids in enumerate(answers):
        if any(i != j and other[: len(ids)] == ids for j, other in enumerate(answers)):
            raise InputError(
                f"the tokens of one spelling of {words[0]!r} or {words[1]!r} begin another's, so "
                "that their probabilities overlap. Choose other words."
            )
    if not all(questions):
        raise InputError("a question has no token. Ask something.")
    shared = can_share_prompt(backbone_of(model).config)
    found = torch.empty(len(questions), dtype=torch.float64)
    was_training, done = model.training, 0
    model.eval()
    with torch.inference_mode():
        for batch in _batches(questions, answers, tokens_at_once, shared):
            logps = _log_probs(model, [questions[i] for i in batch], answers, shared)
            yes, no = (
                part.logsumexp(1) for part in logps.split([len(own) for own in spellings], dim=1)
            )
            found[batch] = (yes - no).double().cpu()
            done += len(batch)
            if progress:
                progress(done, len(questions))
    model.train(was_training)
    return found


def _batches(
    questions: Sequence[Ids], answers: Sequence[Ids], room: int, shared: bool
) -> Iterator[list[int]]:
    """Indices of questions of like length, the longest first so that memory peaks at once."""
    longest, total = max(map(len, answers)), sum(map(len, answers))
    batch: list[int] = []
    used = 0
    for i in sorted(range(len(questions)), key=lambda i: (-len(questions[i]), i)):
        n = len(questions[i])
        size = n + total if shared else len(answers) * (n + longest)
        if batch and used + size > room:
            yield batch
            batch, used = [], 0
        batch.append(i)
        used += size
    if batch:
        yield batch


def _log_probs(
    model: nn.Module, questions: Sequence[Ids], answers: Sequence[Ids], shared: bool
) -> Tensor:
    """Summed log-probabilities [questions, answers]."""
    head = head_of(model)
    parts = [(question, answers) for question in questions]
    layout = packed(parts) if shared else plain(parts, pad_token_id=0)
    device = head.weight.device
    index = torch.cat([own for row in layout.hidden_index for own in row])
    batch = {**layout.inputs, "hidden_index": index}
    hidden = response_hidden(backbone_of(model), {name: t.to(device) for name, t in batch.items()})
    labels = torch.tensor([t for ids in answers for t in ids] * len(questions), device=device)
    logps = head.logits(hidden).float().log_softmax(-1).gather(1, labels[:, None]).squeeze(1)
    lengths = [len(ids) for ids in answers]
    sums = [part.sum(1) for part in logps.view(len(questions), -1).split(lengths, dim=1)]
    return torch.stack(sums, dim=1)
