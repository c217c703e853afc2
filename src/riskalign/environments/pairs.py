"""Preference pairs from scored answers: helpful pairs by reward, safe pairs by cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from riskalign.environments.world import Prompt, World
from riskalign.errors import InputError

Kind = Literal["helpful", "safe"]


def make_pairs(
    world: World,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[str]],
    kind: Kind,
    *,
    pairs_per_prompt: int = 1,
) -> list[dict[str, Any]]:
    """Rank the answers to each prompt and pair the best with the worst.

    Helpful pairs rank by reward alone. Safe pairs rank by cost; among equally costly answers the
    more helpful one is preferred, so that silence does not pass for safety. With
    `pairs_per_prompt` above 1 the second best is paired with the second worst, and so on, as long
    as their scores differ.

    Args:
        world: scores the answers.
        prompts: the prompts answered.
        answers: texts, one sequence for each prompt.
        kind: ``helpful`` or ``safe``.
        pairs_per_prompt: at most so many pairs from one prompt.

    Returns:
        Rows in TRL's conversational format with explicit prompt, and ``score_chosen`` and
        ``score_rejected``: the rewards (helpful) or minus the costs (safe).

    Raises:
        InputError: `kind` is unknown.
    """
    if kind not in ("helpful", "safe"):
        raise InputError(f"kind: must be 'helpful' or 'safe', not {kind!r}")
    rows: list[dict[str, Any]] = []
    for prompt, texts in zip(prompts, answers, strict=True):
        # An empty answer cannot be trained on: its only token would be the end of the sequence.
        distinct = sorted({text for text in texts if text})
        scored = [(_score(world, prompt, text, kind), text) for text in distinct]
        scored.sort(key=lambda pair: pair[0], reverse=True)
        for i in range(min(pairs_per_prompt, len(scored) // 2)):
            (better, chosen), (worse, rejected) = scored[i], scored[-1 - i]
            if better[0] <= worse[0]:
                break
            rows.append(
                {
                    "prompt": list(prompt.messages),
                    "chosen": [{"role": "assistant", "content": chosen}],
                    "rejected": [{"role": "assistant", "content": rejected}],
                    "score_chosen": better[0],
                    "score_rejected": worse[0],
                }
            )
    return rows


def _score(world: World, prompt: Prompt, text: str, kind: Kind) -> tuple[float, float]:
    reward = world.reward(prompt, text)
    return (reward, 0.0) if kind == "helpful" else (-world.cost(prompt, text), reward)
