"""Training rows from scored answers: pairs of the best and the worst, or whole groups."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from riskalign.worlds.world import Prompt, World, score_ahead


class Scored(NamedTuple):
    """An answer with its reward and cost."""

    text: str
    reward: float
    cost: float


#: Ranks an answer: its score, higher better, and what decides between equals.
Score = Callable[[Scored], tuple[float, float]]


class Rows(NamedTuple):
    """Rows and what became of the prompts.

    `anchors` of the rows have answers of one score alone, which hold the policy where it is;
    `alike` prompts more were left out for having no others, or no two different answers; `empty`
    answers for saying nothing.
    """

    rows: list[dict[str, Any]]
    anchors: int
    alike: int
    empty: int


def score_answers(
    world: World, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]
) -> list[list[Scored]]:
    """Reward and cost of every answer, prompt by prompt."""
    pairs = zip(prompts, answers, strict=True)
    score_ahead(world, [(prompt, text) for prompt, texts in pairs for text in texts])
    return [
        [Scored(text, world.reward(prompt, text), world.cost(prompt, text)) for text in own]
        for prompt, own in zip(prompts, answers, strict=True)
    ]


def by_reward(answer: Scored) -> tuple[float, float]:
    """For helpful rows."""
    return answer.reward, 0.0


def by_cost(answer: Scored) -> tuple[float, float]:
    """For safe rows; among equally costly answers the more helpful one is the better one.

    So silence does not pass for safety.
    """
    return -answer.cost, answer.reward


def pair_rows(
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Scored]],
    score: Score,
    *,
    pairs_per_prompt: int = 1,
    anchors: float = 0.0,
    seed: int = 0,
) -> Rows:
    """Rank the answers to each prompt and pair the best with the worst.

    With `pairs_per_prompt` above 1 the second best is paired with the second worst, and so on, as
    long as their scores differ. Prompts whose answers all have one score make up at most the share
    `anchors` of the rows, in [0, 1], drawn by `seed`; only some of them say that a tail exists.

    Returns rows in TRL's conversational format with explicit prompt, `score_chosen` and
    `score_rejected`.
    """
    tail: list[tuple[int, dict[str, Any]]] = []
    alike: list[tuple[int, dict[str, Any]]] = []
    lone = 0
    for place, (prompt, own) in enumerate(zip(prompts, answers, strict=True)):
        # An empty answer cannot be trained on: its only token would be the end of the sequence.
        distinct = sorted({answer for answer in own if answer.text})
        ranked = sorted(((score(a), a.text) for a in distinct), key=_rank, reverse=True)
        lone += len(ranked) < 2
        for i in range(min(pairs_per_prompt, len(ranked) // 2)):
            ((better, _), chosen), ((worse, _), rejected) = ranked[i], ranked[-1 - i]
            if better <= worse and i > 0:
                break
            row = {
                "prompt": list(prompt.messages),
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
                "score_chosen": better,
                "score_rejected": worse,
            }
            (tail if better > worse else alike).append((place, row))
    empty = sum(not answer.text for own in answers for answer in own)
    return with_anchors(tail, alike, anchors, seed, lone=lone, empty=empty)


def group_rows(
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Scored]],
    score: Score,
    *,
    anchors: float = 0.0,
    seed: int = 0,
) -> Rows:
    """All answers to each prompt as one row `prompt`, `completions`, `scores`; see `pair_rows`.

    An answer that was sampled twice stands there twice.
    """
    tail: list[tuple[int, dict[str, Any]]] = []
    alike: list[tuple[int, dict[str, Any]]] = []
    lone = 0
    for place, (prompt, own) in enumerate(zip(prompts, answers, strict=True)):
        kept = [answer for answer in own if answer.text]
        if len({answer.text for answer in kept}) < 2:
            lone += 1
            continue
        scores = [score(answer)[0] for answer in kept]
        row = {
            "prompt": list(prompt.messages),
            "completions": [[{"role": "assistant", "content": a.text}] for a in kept],
            "scores": scores,
        }
        (tail if len(set(scores)) > 1 else alike).append((place, row))
    empty = sum(not answer.text for own in answers for answer in own)
    return with_anchors(tail, alike, anchors, seed, lone=lone, empty=empty)


def _rank(ranked: tuple[tuple[float, float], str]) -> tuple[float, float]:
    return ranked[0]


def with_anchors(
    tail: Sequence[tuple[int, dict[str, Any]]],
    alike: Sequence[tuple[int, dict[str, Any]]],
    share: float,
    seed: int,
    *,
    lone: int = 0,
    empty: int = 0,
) -> Rows:
    """At most `share` of the rows without a difference, in the prompts' order."""
    most = len(alike) if share >= 1.0 else int(share / (1.0 - share) * len(tail) + 1e-9)
    kept = random.Random(seed).sample(list(alike), min(most, len(alike))) if tail else []
    rows = sorted([*tail, *kept], key=lambda entry: entry[0])
    return Rows([row for _, row in rows], len(kept), lone + len(alike) - len(kept), empty)
