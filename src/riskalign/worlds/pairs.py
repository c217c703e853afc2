"""Training rows from scored answers: pairs of the best and the worst, or whole groups."""

import random
from collections.abc import Callable, Sequence
from operator import itemgetter
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
    """Reward and cost of every answer, prompt by prompt; equal answers are scored once."""
    pairs = zip(prompts, answers, strict=True)
    score_ahead(world, [(prompt, text) for prompt, texts in pairs for text in texts])
    scored = []
    for prompt, texts in zip(prompts, answers, strict=True):
        once = {
            text: Scored(text, world.reward(prompt, text), world.cost(prompt, text))
            for text in dict.fromkeys(texts)
        }
        scored.append([once[text] for text in texts])
    return scored


def by_reward(answer: Scored) -> tuple[float, float]:
    """For helpful rows."""
    return answer.reward, 0.0


def by_cost(answer: Scored) -> tuple[float, float]:
    """For safe rows; of equally costly answers the more helpful is better, lest silence pass."""
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
    rows = []
    for place, scored in enumerate(answers):
        distinct = sorted({answer for answer in scored if answer.text})
        ranked = [(score(answer), answer.text) for answer in distinct]
        ranked.sort(key=itemgetter(0), reverse=True)
        for i in range(min(pairs_per_prompt, len(ranked) // 2)):
            ((better, _), chosen), ((worse, _), rejected) = ranked[i], ranked[-1 - i]
            if better <= worse and i > 0:
                break
            row = {
                "prompt": list(prompts[place].messages),
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
                "score_chosen": better,
                "score_rejected": worse,
            }
            rows.append((place, row, better > worse))
    return _sorted_out(rows, answers, anchors, seed)


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
    rows = []
    for place, scored in enumerate(answers):
        spoken = [answer for answer in scored if answer.text]
        if len({answer.text for answer in spoken}) < 2:
            continue
        scores = [score(answer)[0] for answer in spoken]
        row = {
            "prompt": list(prompts[place].messages),
            "completions": [[{"role": "assistant", "content": a.text}] for a in spoken],
            "scores": scores,
        }
        rows.append((place, row, len(set(scores)) > 1))
    return _sorted_out(rows, answers, anchors, seed)


def _sorted_out(
    rows: Sequence[tuple[int, dict[str, Any], bool]],
    answers: Sequence[Sequence[Scored]],
    anchors: float,
    seed: int,
) -> Rows:
    """Of each row the prompt's place, and whether its scores differ; without empty answers.

    An empty answer cannot be trained on: its only token would be the end of the sequence.
    """
    tail, alike = ([(i, row) for i, row, d in rows if d == differ] for differ in (True, False))
    lone = len(answers) - len({place for place, _, _ in rows})
    empty = sum(not answer.text for scored in answers for answer in scored)
    return with_anchors(tail, alike, anchors, seed, lone=lone, empty=empty)


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
    rows = sorted([*tail, *kept], key=itemgetter(0))
    return Rows([row for _, row in rows], len(kept), lone + len(alike) - len(kept), empty)
